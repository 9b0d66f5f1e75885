"""Silent failures, named: findings with their evidence, threshold and the one thing to try."""

"""Silent failures: findings, each with its evidence, its threshold and one thing to try."""

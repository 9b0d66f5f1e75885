"""A training, from its recipe to its report. Read `train.py` first."""

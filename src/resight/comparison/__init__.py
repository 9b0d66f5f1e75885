"""Two or more runs side by side, and whether their difference is chance."""

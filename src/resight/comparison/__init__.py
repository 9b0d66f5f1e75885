"""Two or more runs side by side, and whether they differ significantly."""

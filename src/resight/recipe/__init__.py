"""What to train: recipes, their sections, the named recipes, and the table of nets."""

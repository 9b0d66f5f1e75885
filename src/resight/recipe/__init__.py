"""What is trained: recipes, their sections, the named ones, and the tables of nets."""

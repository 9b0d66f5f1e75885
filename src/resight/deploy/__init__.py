"""A trained net, put to use: serve."""

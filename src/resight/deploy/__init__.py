"""A trained net, put to use: predict, export."""

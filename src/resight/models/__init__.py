"""The nets, their parts, and the table of a net's layers."""

"""The data paths: how the bytes of a connection are carried, and the choice among them."""

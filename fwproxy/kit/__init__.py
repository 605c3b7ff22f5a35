"""For filter authors: bounded readers and the embedded-endpoint kit."""

"""Host names to addresses: whom to ask, in which order to try what is found, and for how long."""

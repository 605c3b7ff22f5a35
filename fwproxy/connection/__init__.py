"""One flow, primary or secondary: how it is opened, carried and ended."""

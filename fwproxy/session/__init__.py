"""One client with all that was opened for it, and the calls that its filters make."""

"""The ways in: how clients reach the proxy."""

"""Benchmarks: fwproxy beside HAProxy, nginx and no proxy at all. Run with ``make bench``."""

"""Measure how fast a network is on this machine, and how fast the same network of other libraries is."""

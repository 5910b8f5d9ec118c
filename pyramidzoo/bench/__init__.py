"""Measure how fast a network is on this machine, beside the same network of other libraries."""

"""Datasets, and the transforms that turn an image into a network's input."""

"""Checkpoint files on disk: reading, writing, hashing, and loading them into a network."""

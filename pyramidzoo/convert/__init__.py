"""Checkpoints of other projects, turned into the zoo's safetensors files."""

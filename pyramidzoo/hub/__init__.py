"""Publish weights on the Hugging Face Hub."""

"""The lists of what exists: architectures, sets of weights, published tables. No module here imports torch."""

"""What exists: architectures, sets of weights, published tables. Nothing here needs torch."""

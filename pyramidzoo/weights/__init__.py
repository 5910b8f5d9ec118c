"""Getting the file of a set of weights: cache, download, verification."""

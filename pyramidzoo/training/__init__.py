"""Training by recipe: seeded, logged and resumable. It ends in a file that describes itself."""

"""Training by recipe: seeded, logged, resumable, and ending in a file that says what it is."""

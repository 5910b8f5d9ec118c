"""The commands, a few that belong together in each file. Each adds its parser and runs; torch is imported to run."""

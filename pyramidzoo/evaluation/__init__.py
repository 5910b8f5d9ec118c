"""Evaluation: predictions, counts, verdicts, records and tables."""

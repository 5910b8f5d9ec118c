"""Numbers that can be believed: predictions by sample index, integer counts, two verdicts, records, tables."""

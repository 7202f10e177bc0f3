"""Files: those that a lab has, opened as tables, and ours, which are never half-written."""

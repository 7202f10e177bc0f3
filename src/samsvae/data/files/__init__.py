"""Files of any kind that a lab has, as tables."""

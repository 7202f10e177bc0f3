"""Arrays in, numbers out: every metric, and what they are computed from."""

"""One command, one file. What its work needs is imported when it runs: help needs none of it."""

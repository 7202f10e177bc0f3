"""Runs: models trained, scored and reported, each in a directory of its own."""

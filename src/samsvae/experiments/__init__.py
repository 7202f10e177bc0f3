"""Jobs: models trained and scored, each in a folder of its own."""

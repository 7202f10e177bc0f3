"""What a trained model answers, and how well: likelihood, effects, scores against the data."""

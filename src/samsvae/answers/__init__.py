"""What a trained model answers: what conditions do, and through which mechanisms."""

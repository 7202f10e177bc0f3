"""What a trained module answers: tensors in, arrays out."""

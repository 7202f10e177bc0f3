"""Training: one step, the loop around it, and checkpoints."""

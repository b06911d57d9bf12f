"""What moves the weights: gradients over batches, activations that block them, and verdicts."""

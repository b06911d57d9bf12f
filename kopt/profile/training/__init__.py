"""A model over its training: what its gradients, updates and weights do, and what to change."""

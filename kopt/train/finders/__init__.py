"""Searches for a learning rate and a batch size that leave the model as it was."""

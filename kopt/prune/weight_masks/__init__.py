"""Weights that become zero and stay in place."""

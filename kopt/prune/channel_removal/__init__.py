"""Removing channels: scores, widths, costs, and the smaller model."""

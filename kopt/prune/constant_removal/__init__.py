"""Channels that say the same of every example."""

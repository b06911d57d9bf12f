"""Channels that become zero during training, and go after it."""

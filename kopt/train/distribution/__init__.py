"""Strategies, devices, and layers spread over them."""

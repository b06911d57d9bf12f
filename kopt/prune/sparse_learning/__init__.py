"""A penalty that brings channels towards zero."""

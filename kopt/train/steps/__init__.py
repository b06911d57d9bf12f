"""The training step as a graph, and what runs many of them."""

"""What a model costs, layer by layer: arithmetic, memory, and which of the two a machine lacks."""

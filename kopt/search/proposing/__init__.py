"""What is tried and in which order: by the facts of a model, by rounds, by halving."""

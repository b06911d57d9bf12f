"""What is in the weights of a model: statistics of its variables, and how two sets of them differ."""

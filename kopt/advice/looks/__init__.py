"""Looking at a model and its data, each at a bounded cost."""

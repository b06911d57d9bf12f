"""What is known of a model and its training, as tables and plots: one file a record."""

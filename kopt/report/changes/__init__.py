"""What was done to a model, as tables and plots: one file a record."""

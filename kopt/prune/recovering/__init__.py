"""Training what is left, once or between rounds of pruning."""

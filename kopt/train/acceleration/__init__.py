"""`fit` of an accelerated model: epochs, checkpoints, and what is said of bad data before and after."""

"""What a training step keeps in memory: estimated, measured, and computed again instead."""

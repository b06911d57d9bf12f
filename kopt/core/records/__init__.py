"""What stages hand to each other: frozen, serialisable, with the unit in the name."""

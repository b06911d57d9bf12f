"""What files answer, what they cost, and what follows from both: inside the budget or not, and which is best."""

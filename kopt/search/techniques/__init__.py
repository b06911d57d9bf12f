"""The techniques that a search tries: what they take, where they stand in a recipe, and what each of them does."""

"""What training and its data hand to other stages."""

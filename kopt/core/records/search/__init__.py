"""What a search is asked for, what it judges by, and what it found."""

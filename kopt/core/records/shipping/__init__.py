"""What ships, and what is known of it once it runs."""

"""What is known of files and of servers, as tables and plots: one file a record."""

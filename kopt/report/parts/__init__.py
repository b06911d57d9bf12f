"""What tables, plots and pages are put together from."""

"""Recipes carried out: in child processes, within the limits of the run, kept on disk."""

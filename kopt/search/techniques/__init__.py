"""What each row of the catalog does, by the room of the package it calls."""

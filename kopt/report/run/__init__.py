"""A run of the search, told: rows, story, pages, and one run against another."""

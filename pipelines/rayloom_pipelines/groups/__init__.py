"""Runs that belong together: K seeds, the trials of a sweep."""

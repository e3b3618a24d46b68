"""Models, a family a folder: `index.py` has a line for each method, which has a file of its own."""

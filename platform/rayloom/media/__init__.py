"""What a run shows: grids of pictures, films. Knows numbers and files only."""

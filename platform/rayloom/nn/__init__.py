"""Networks, preprocessing and moving averages of parameters."""

"""Autoregressive models: a method a file, `index` lists them."""

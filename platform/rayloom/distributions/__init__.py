"""Distributions with one contract, and the likelihood heads that decoders end in."""

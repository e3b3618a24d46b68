"""Autoencoders, variational and others."""

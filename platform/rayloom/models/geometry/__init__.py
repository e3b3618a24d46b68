"""Shapes, surfaces and pictures as functions and primitives."""

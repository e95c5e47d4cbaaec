"""Showing results: figures from arrays."""

"""Rows in: files of inputs read safely and in batches, and their split into disjoint parts."""

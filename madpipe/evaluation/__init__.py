"""Judging scores: metrics, intervals, honesty of p-values, comparison tables."""

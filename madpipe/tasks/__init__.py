"""Benchmark tasks: a target with a known anomalous mechanism, trusted inputs and labelled test inputs."""

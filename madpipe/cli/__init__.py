"""The command line: one file per command, each of which imports its work when called."""

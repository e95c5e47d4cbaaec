"""The YAML config: its schema, how it is read, and how plug-in defaults are filled in."""

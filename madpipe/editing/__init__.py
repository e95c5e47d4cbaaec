"""Act on what was found: say which mechanisms an output came from, and take them out."""

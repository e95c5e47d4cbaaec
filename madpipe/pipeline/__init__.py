"""The fitted whole, as a folder that scores."""

"""Weights as sums of components: sites, masks, and the model that runs with parts of its weights."""

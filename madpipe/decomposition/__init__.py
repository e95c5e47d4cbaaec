"""Methods that decompose a target's weights on trusted data."""

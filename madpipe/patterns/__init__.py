"""The waist: from live tensors to one row of features per input."""

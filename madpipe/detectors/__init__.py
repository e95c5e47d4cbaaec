"""Anomaly detectors on pattern matrices: scikit-learn estimators (higher = more normal), and conformal p-values."""

"""madpipe: mechanistic anomaly detection by parameter decomposition."""

__version__ = "0.1.0"

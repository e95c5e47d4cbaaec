"""Target models: the frozen networks that are questioned, built in or brought by the user."""

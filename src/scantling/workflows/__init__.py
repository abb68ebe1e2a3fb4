"""The verbs as functions: one call for each thing a user does."""

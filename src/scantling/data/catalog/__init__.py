"""Public data sets as manifests, and synthetic ones made on the spot."""

"""Which pixels are compared, and which pairs of them belong together."""

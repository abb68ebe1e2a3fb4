"""Where targets come from when nobody annotated."""

"""Arrays in, pictures out: overlays as PNG, charts as inline SVG; NumPy, SciPy and Pillow only."""

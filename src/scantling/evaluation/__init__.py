"""Label maps in, numbers out: NumPy and SciPy only, and every rule for odd cases in writing."""

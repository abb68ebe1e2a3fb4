"""From a sample to views whose every pixel can be traced back to the source image."""

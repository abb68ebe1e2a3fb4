"""What a trained run is used for: a model folder, sliding windows, predictions on the images' own grids."""

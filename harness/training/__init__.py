"""One training, from its settings to its checkpoints, on one device or on several."""

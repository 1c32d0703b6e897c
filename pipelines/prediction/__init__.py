"""The command `crossmodal predict`: classifies files with a trained classifier."""

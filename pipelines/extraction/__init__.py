"""The work of `crossmodal features`."""

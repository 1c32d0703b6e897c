"""The work behind `crossmodal features`."""

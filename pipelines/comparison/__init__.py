"""The work of `crossmodal compare`."""

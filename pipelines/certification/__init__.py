"""The work of `crossmodal certify`."""

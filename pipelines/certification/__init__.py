"""The work behind `crossmodal certify`."""

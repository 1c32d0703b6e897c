"""The work behind `crossmodal compare`."""

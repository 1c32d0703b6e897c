"""The measurements behind `crossmodal evaluate`."""

"""What several multiview objectives share."""

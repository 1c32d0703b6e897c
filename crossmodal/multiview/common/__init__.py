"""Parts shared by multiview objectives."""

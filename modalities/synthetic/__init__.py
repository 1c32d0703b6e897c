"""Synthetic scenes, and how sensors would record them."""

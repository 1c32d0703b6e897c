"""Synthetic scenes and their rendering for simulated sensors."""

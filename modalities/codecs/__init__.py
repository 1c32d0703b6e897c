"""Bytes <-> physical units, for several modalities."""

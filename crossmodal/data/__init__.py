"""Paired shards: written, described, verified, read in a planned order, as batches of views."""

"""Paired shards: writing, manifests, checks, the order of reading, and batches of views."""

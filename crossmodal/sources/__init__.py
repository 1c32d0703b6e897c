"""The catalogue of sources: a file a place that pairs come from."""

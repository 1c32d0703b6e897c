"""The catalogue of objectives: a file a method."""

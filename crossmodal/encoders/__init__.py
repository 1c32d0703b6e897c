"""The catalogue of encoders: a file a family."""

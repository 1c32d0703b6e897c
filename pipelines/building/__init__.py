"""Builds the library's objects from configs: each is opened and checked once, and an error names its config key."""

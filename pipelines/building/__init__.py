"""Configs -> the library's objects: each is opened and checked once, and a mistake names its key."""

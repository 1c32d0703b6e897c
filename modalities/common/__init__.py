"""Catalogues, options and random numbers for all packages."""

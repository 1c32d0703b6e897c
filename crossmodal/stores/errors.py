"""Errors of object stores, and addresses without the secrets that an URL can carry."""

import re

SECRETS = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)(?:[^\s/@]*@)?([^\s?#\"'<>]*)(?:[?#][^\s\"'<>]*)?")


class StoreError(OSError):
    """A store does not answer, refuses access, or gives other bytes than asked for; the message says what to do."""


class MissingError(StoreError):
    """A store has no such object or bucket."""


def clean(text: str) -> str:
    """The text with every URL in it reduced to scheme, host and path: without user, password, query and fragment."""
    return SECRETS.sub(r"\1\2", text)

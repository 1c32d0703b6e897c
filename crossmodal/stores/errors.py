"""Errors of object stores, and addresses without the secrets that an URL can carry."""

import re

SECRETS = re.compile(  # a secret may hold "/" and "@", so what follows a colon is removed up to the last "@"
    r"([a-zA-Z][a-zA-Z0-9+.-]*://)(?:[^\s:\"'<>]*:[^\s\"'<>]*@|[^\s/@]*@)?([^\s?#\"'<>]*)(?:[?#][^\s\"'<>]*)?"
)


class StoreError(OSError):
    """A store does not answer, refuses access, or gives other bytes than asked for; the message says what to do."""


class MissingError(StoreError):
    """A store has no such object or bucket."""


class UnlistableError(StoreError):
    """A web server gives files, but not the names of those in a folder."""


class ShortError(StoreError):
    """An object ends before the bytes that were asked for."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} ends before bytes that its index promises: it changed, or was cut short; copy or pack "
                         "it again")  # fmt: skip
        self.url = url

    def __reduce__(self) -> tuple[type, tuple[str]]:
        return type(self), (self.url,)


def clean(text: str) -> str:
    """The text with every URL in it reduced to scheme, host and path: without user, password, query and fragment."""
    return SECRETS.sub(r"\1\2", text)

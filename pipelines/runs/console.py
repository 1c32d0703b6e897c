"""Prints lines for the user."""

from pipelines.config.errors import printable
from pipelines.runs.distributed import is_main


def say(text: str) -> None:
    """Prints one line for the user, in the main process only."""
    if is_main():
        print(printable(text), flush=True)

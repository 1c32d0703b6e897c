"""Lines for the user, printed by the main process."""

from pipelines.config.errors import printable
from pipelines.runs.distributed import is_main


def say(text: str) -> None:
    """One line for the user, from the main process."""
    if is_main():
        print(printable(text), flush=True)

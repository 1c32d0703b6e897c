"""Lines and progress for the user: records of the logger `crossmodal`, which the command prints, and bars."""

import logging
import sys
from typing import Any

from pipelines.config.errors import printable
from pipelines.runs.distributed import is_main

LOG = logging.getLogger("crossmodal")


class _Terminal(logging.Handler):
    """Prints news to stdout and warnings to stderr, without a prefix."""

    def emit(self, record: logging.LogRecord) -> None:
        stream = sys.stdout if record.levelno < logging.WARNING else sys.stderr
        print(printable(record.getMessage()), file=stream, flush=True)


def print_records() -> None:
    """Makes the logger print, as the command wants it; a program that only imports us configures logging itself."""
    if not any(isinstance(handler, _Terminal) for handler in LOG.handlers):
        LOG.addHandler(_Terminal())
        LOG.setLevel(logging.INFO)


def say(text: str) -> None:
    """Logs a line for the user, in the main process only."""
    if is_main():
        LOG.info(text)


def warn(text: str) -> None:
    """Logs a warning, in every process that has it."""
    LOG.warning(text)


def progress_bar(**options: Any) -> Any:
    """A bar of tqdm, which the main process shows on a terminal or in a notebook."""
    from tqdm.auto import tqdm

    is_shown = is_main() and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    return tqdm(disable=not is_shown, **options)

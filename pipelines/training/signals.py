"""Signals that ask a run to stop."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")


class Stopped(BaseException):
    """A signal came during a wait for data; not an `Exception`, which the loader would take for its own."""


class Signals:
    """Remembers SIGTERM and SIGINT while a training runs, so that it can stop between steps; ends a wait for data."""

    def __init__(self) -> None:
        self.caught = 0  # the signal this process got
        self._waits = False  # for data, where nothing is lost by going away

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def next(self, items: Iterator[Item]) -> Item | None:
        """The next item; None after the last, and as soon as a signal has come."""
        with contextlib.suppress(Stopped):
            try:
                self._waits = True
                return None if self.caught else next(items, None)
            finally:
                self._waits = False
        return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice
        self.caught = number
        if self._waits:
            self._waits = False
            raise Stopped

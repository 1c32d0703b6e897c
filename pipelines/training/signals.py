"""Signals that ask a run to stop."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import TypeVar

Item = TypeVar("Item")


class Stopped(BaseException):
    """A signal came during a wait for data; not an `Exception`, or the loader would handle it."""


class Signals:
    """Records SIGTERM and SIGINT during a training, which then stops between steps; ends a wait for data."""

    def __init__(self) -> None:
        self.caught = 0  # number of the signal this process got
        self._waits = False  # for data, which can be interrupted without loss

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def next(self, items: Iterator[Item]) -> Item | None:
        """The next item; None after the last one or once a signal has come."""
        with contextlib.suppress(Stopped):
            try:
                self._waits = True
                return None if self.caught else next(items, None)
            finally:
                self._waits = False
        return None

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught and number == signal.SIGINT:
            raise KeyboardInterrupt  # the second request
        self.caught = number
        if self._waits:
            self._waits = False
            raise Stopped

"""Signals that ask a run to stop."""

import signal
from types import FrameType


class Signals:
    """Remembers SIGTERM and SIGINT while a training runs, so that it can stop between steps."""

    def __init__(self) -> None:
        self.caught = 0  # the signal this process got

    def __enter__(self) -> "Signals":
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.caught and number == signal.SIGINT:
            raise KeyboardInterrupt  # asked twice
        self.caught = number

"""Checks of options, with one wording for all modalities."""

import os
from dataclasses import dataclass

from modalities import DecodeError


@dataclass(frozen=True)
class Limit:
    """The maximum size that a file may claim, checked before memory is allocated.

    An environment variable can change it, which applies to every command and does not change a run's identity.
    """

    variable: str  # environment variable that sets another limit
    usual: int
    unit: str

    def check(self, claimed: int, what: str) -> None:
        """Refuses a file that claims more than the limit.

        Raises:
            DecodeError: it claims more, or the environment variable is not a whole number above 0.
        """
        limit = os.environ.get(self.variable, str(self.usual))
        if not (limit.isascii() and limit.isdigit() and int(limit)):
            raise DecodeError(f"the environment variable {self.variable} must be a whole number above 0, got {limit!r}")
        if claimed > int(limit):
            raise DecodeError(
                f"{what} has {claimed} {self.unit}, more than the {int(limit)} allowed; if that is right, set the "
                f"environment variable {self.variable}={claimed} or higher"
            )


def check_within(low: float, high: float, **options: float) -> None:
    """Refuses options outside [low, high].

    Raises:
        ValueError: one is outside, or is not a number.
    """
    for name, value in options.items():
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high}, got {value}")


def check_length(length: int, **options: tuple[float, ...]) -> None:
    """Refuses options that do not have one number per channel.

    Raises:
        ValueError: one is longer or shorter.
    """
    for name, values in options.items():
        if len(values) != length:
            raise ValueError(f"{name} must have {length} numbers, one per channel, got {len(values)}")

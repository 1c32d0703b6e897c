"""Checks of options, with one wording for all modalities."""

import os
from dataclasses import dataclass

from modalities import DecodeError


@dataclass(frozen=True)
class Limit:
    """The most that a file may claim to hold, checked before memory is taken for it.

    It is set by an environment variable, so that it holds for every command and does not belong to a run's identity.
    """

    variable: str  # environment variable that sets another one
    usual: int
    unit: str

    def check(self, claimed: int, what: str) -> None:
        """Refuses a file that claims more.

        Raises:
            DecodeError: it does, or the environment variable is not a whole number above 0.
        """
        told = os.environ.get(self.variable, str(self.usual))
        if not (told.isascii() and told.isdigit() and int(told)):
            raise DecodeError(f"the environment variable {self.variable} must be a whole number above 0, got {told!r}")
        if claimed > int(told):
            raise DecodeError(
                f"{what} has {claimed} {self.unit}, more than the {int(told)} allowed; if that is right, set the "
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

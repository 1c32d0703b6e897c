"""Errors that a user can cause. The command prints their message to stderr, without a traceback."""

from collections.abc import Sequence

from crossmodal.stores.errors import clean


def printable(text: str) -> str:
    """The text with control characters and undecodable bytes as escapes, so that no terminal obeys them."""
    return "".join(
        sign if sign in "\n\t" or not (ord(sign) < 32 or 127 <= ord(sign) < 160 or 0xD800 <= ord(sign) < 0xE000)
        else ascii(sign)[1:-1]
        for sign in text
    )  # fmt: skip


class ConfigError(ValueError):
    """All problems of a config, found before any work; one problem a line, each with its place.

    URLs in them are reduced to scheme, host and path, because a setting that is quoted may hold a password.
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = [clean(problem) for problem in problems]
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class SharedError(ConfigError):
    """A mistake that all processes of a launch raise at the same point. The first process prints it."""


class FieldError(ValueError):
    """A field that contradicts another one; raised by a config's `__post_init__`.

    Args:
        key: dotted key of the field, relative to the config that raises.
        problem: the message after the key: "must be above 0, got -1".
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key} {problem}")
        self.key, self.problem = key, problem


class RunError(Exception):
    """A run cannot continue; the message is for the user."""


class FinishedError(RunError):
    """Nothing is left to do: a trial ended well, or another process finished the run while this one was starting."""


class TrialError(RunError):
    """A trial found a fault; see `pipelines.training.trials`."""


class DivergedError(RunError):
    """The loss, or a weight to export, is no longer finite."""

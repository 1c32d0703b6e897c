"""What goes wrong by the user's doing: said on stderr in a few lines, without a traceback."""

from collections.abc import Sequence


def printable(text: str) -> str:
    """The text without what a terminal would obey: control characters and bytes that are no text show as escapes."""
    return "".join(
        sign if sign in "\n\t" or not (ord(sign) < 32 or 127 <= ord(sign) < 160 or 0xD800 <= ord(sign) < 0xE000)
        else ascii(sign)[1:-1]
        for sign in text
    )  # fmt: skip


class ConfigError(ValueError):
    """Everything that is wrong with a config, found before any work; one problem a line, each with its place."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(problems)
        self.problems = list(problems)

    def __str__(self) -> str:
        return "\n".join(self.problems)


class SharedError(ConfigError):
    """A mistake that every process of a launch raises at the same point; the first one prints it."""


class FieldError(ValueError):
    """A field that does not fit what stands beside it; raised by a config's `__post_init__`.

    Args:
        key: the field, dotted from the config that raises.
        problem: what follows the key in the message: "must rise, got [1, 0]".
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key} {problem}")
        self.key, self.problem = key, problem


class RunError(Exception):
    """A run that cannot go on, with a message for the user."""


class FinishedError(RunError):
    """Another process finished this very run while this one was getting ready: nothing is left to do."""


class DivergedError(RunError):
    """A training whose loss, or a weight it would export, is no longer a finite number."""

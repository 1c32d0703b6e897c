"""Arguments of the commands that take no config: embed, init and predict."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from pipelines.config.errors import ConfigError, printable


class Parser(argparse.ArgumentParser):
    """A parser whose mistakes are printed by `main`, as those of configs are."""

    def __init__(self, command: str, description: str, epilog: str) -> None:
        super().__init__(prog=f"crossmodal {command}", description=description, epilog=epilog, allow_abbrev=False)
        self.command = command

    def error(self, message: str) -> NoReturn:
        """Raises what `main` prints."""
        raise ConfigError([f"{self.command}: {message}; see crossmodal {self.command} --help"])

    def read(self, words: Sequence[str]) -> argparse.Namespace | None:
        """The values of the arguments; None after the help page, where the words ask for it.

        Raises:
            ConfigError: the words are wrong.
        """
        if {"-h", "--help"} & {*words}:
            print(printable(self.format_help()), end="")
            return None
        return self.parse_args(words)

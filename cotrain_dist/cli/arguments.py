"""Arguments of the commands that take few: argparse, with errors as everywhere else."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from cotrain_dist.cli.parsing import is_key
from cotrain_dist.errors import UserError


class Arguments(argparse.ArgumentParser):
    """A parser whose complaints are UserErrors and whose options cannot be abbreviated."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UserError("command line", self.prog, message, f"see {self.prog} --help")

    def parse_with_settings(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The command's own arguments, and the `--KEY VALUE` pairs of settings."""
        own, settings, words = [], [], list(arguments)
        while words:
            word = words.pop(0)
            name, equals, _ = word.removeprefix("--").partition("=")
            if not word.startswith("--") or not is_key(name):
                own.append(word)
                continue
            settings.append(word)
            # Else argparse would take the value for one of its own, such as an image.
            if not equals and words and not words[0].startswith("--"):
                settings.append(words.pop(0))
        namespace, unknown = self.parse_known_args(own)
        return namespace, settings + unknown

"""Arguments of the commands that take few: argparse, with errors as everywhere else."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from cotrain_dist.errors import UserError


class Arguments(argparse.ArgumentParser):
    """A parser whose complaints are UserErrors and whose options cannot be abbreviated."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UserError("command line", self.prog, message, f"see {self.prog} --help")

    def parse_with_settings(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The command's own arguments, and the `--KEY VALUE` pairs that are left for settings."""
        return self.parse_known_args(list(arguments))

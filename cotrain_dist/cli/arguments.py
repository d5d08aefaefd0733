"""Arguments of the commands that take few: argparse, with errors as everywhere else."""

import argparse
import difflib
import math
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from cotrain_dist.config.parsing import LARGEST_WHOLE, Given, check_known
from cotrain_dist.config.schema import describe_keys, is_key
from cotrain_dist.errors import UserError
from cotrain_dist.runtime.threads import settle_threads


def before_torch() -> None:
    """Settle the threads that torch starts, and tell a person what the first seconds are for."""
    settle_threads(os.environ)
    if sys.stderr.isatty() and os.environ.get("RANK", "0") == "0":
        print("loading PyTorch ...", file=sys.stderr, flush=True)


def _whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:30]} is no whole number") from None
    if abs(number) > LARGEST_WHOLE:
        raise argparse.ArgumentTypeError(f"{text[:30]} is too large a number")
    return number


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{text[:30]} is no finite number")
    return number


_TYPES = {int: _whole, float: _finite}


class Arguments(argparse.ArgumentParser):
    """A parser whose complaints are UserErrors and whose options cannot be abbreviated."""

    def __init__(self, prog: str, description: str, example: str) -> None:
        """example: what a user may type behind `prog`."""
        epilog = f"Example: {prog} {example}".rstrip()
        super().__init__(prog=prog, description=description, epilog=epilog, allow_abbrev=False)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:  # type: ignore[override]
        """As argparse's; an option of two words answers to `--two_words` and to `--two-words`."""
        spellings = list(names)
        if names[0].startswith("--"):
            words = names[0].removeprefix("--").replace("-", "_")
            spellings += [f"--{words}", f"--{words.replace('_', '-')}"]
        if options.get("type") in _TYPES:
            options["type"] = _TYPES[options["type"]]
        action = super().add_argument(*dict.fromkeys(spellings), **options)
        action.option_strings = [name for name in names if name.startswith("-")]  # in the help
        return action

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
        self._check_once(own)
        namespace, unknown = self.parse_known_args(own)
        for word in unknown:
            if word.startswith("--"):
                name, _, value = word.partition("=")
                if name == "--":
                    raise UserError("command line", word, "belongs to no key", "write --KEY VALUE")
                self._check_spelling(name)
                behind = own[own.index(word) + 1 :][:1]
                value = value or "".join(text for text in behind if not text.startswith("--"))
                # Here already: what stands behind it may have been taken for a RUN.
                check_known(name.removeprefix("--"), Given(value))
        return namespace, settings + unknown

    def parse_known(self, arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The command's own arguments, and all other words, which belong to another command."""
        self._check_once(arguments)
        return self.parse_known_args(arguments)

    def _check_once(self, words: Sequence[str]) -> None:
        """Raise where an option of this command is given twice: argparse would take the last."""
        given: set[str] = set()
        for word in words:
            option, _, value = word.partition("=")
            action = self._option_string_actions.get(option)
            if action is not None and value == "--":  # which argparse would take out
                raise UserError(option, value, "is no value", f"see {self.prog} --help")
            if action is not None and action.dest in given:
                raise UserError(option, word, "is given twice", "keep one of the two")
            given |= set() if action is None else {action.dest}

    def _check_spelling(self, word: str) -> None:
        """Raise where an unknown option looks like one of this command more than like a key."""
        known = [*self._option_string_actions, *(f"--{key.name}" for key in describe_keys())]
        near = difflib.get_close_matches(word, known, n=1)
        if near and near[0] in self._option_string_actions:
            raise UserError("command line", word, "no such option", f"did you mean {near[0]}")

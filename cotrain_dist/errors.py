"""The ways a run ends early with one clear line: a user's mistake, and a failed training."""

from typing import Any

from cotrain_dist.printable import printable

# Scripts tell them apart (docs/exit-codes.md); accelerate launch and torchrun turn all into 1, so
# batch scripts use cli/launcher.py.
EXIT_FAILED = 1
EXIT_USER_ERROR = 2
EXIT_STOPPED = 3
EXIT_PEER_LOST = 4
EXIT_INTERRUPTED = 130
"""128 + SIGINT, as shells say it."""


class UserError(ValueError):
    """A mistake the user can fix: names the key, the value, the rule and the way out.

    >>> str(UserError("seed", -1, "must not be negative", "give a whole number such as 0"))
    'seed: -1: must not be negative; give a whole number such as 0.'
    """

    def __init__(self, key: str, value: object, rule: str, way_out: str) -> None:
        # One line, whatever a file, a class or a path is called.
        super().__init__(printable(f"{key}: {value}: {rule}; {way_out}."))
        self.key = key

    def __reduce__(self) -> tuple[Any, ...]:
        # An error of a process that reads images has to reach the one that trains.
        return _restored, (type(self), str(self), self.key)


def _restored(kind: "type[UserError]", text: str, key: str) -> "UserError":
    """The error as it was: its text is made already, so past its `__init__`."""
    error = kind.__new__(kind, text)
    error.key = key
    return error


class TrainingError(RuntimeError):
    """Training cannot go on (a loss became infinite, say); what was committed stays usable."""


class PeerLostError(TrainingError):
    """Another rank, or the launcher, has ended; ends the process with EXIT_PEER_LOST."""


class PeerUserError(UserError):
    """A user's mistake that another rank has met, raised on all ranks; the lead rank shows it."""

    def __init__(self, text: str) -> None:
        # Past UserError's own: the other rank's text holds key, value, rule and way out already.
        ValueError.__init__(self, printable(text))
        self.key = ""

"""Which commits a resume goes on from: the newest that are whole, the same on all ranks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from cotrain_dist.config.text import config_digest
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.errors import UserError
from cotrain_dist.runtime.collectives import broadcast_json, together
from cotrain_dist.store.checkpoint import (
    DAMAGED,
    MANIFEST,
    commits_in,
    file_digest,
    manifest_digest,
    read_state,
)
from cotrain_dist.store.shared import wait_until_seen
from cotrain_dist.training.context import RunContext
from cotrain_dist.types import ROLES


@dataclass
class Found:
    """Commits on the disk, by `world`, `a` and `b`: names, and the digests of their manifests."""

    names: dict[str, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    damaged: list[UserError] = field(default_factory=list)
    """Of commits that were left out for the one before."""

    @contextmanager
    def unless_damaged(self) -> Iterator[None]:
        """A block that looks at one commit; that it is damaged is noted."""
        try:
            yield
        except UserError as error:
            # A commit of another run or of other settings is refused: an older one is no better.
            if error.key != DAMAGED:
                raise
            self.damaged.append(error)


def find_commits(table: SplitTable, ctx: RunContext, *, before: str | None = None) -> Found:
    """On one rank: the newest whole commit of the world, or before that those of each role.

    before: digest of the run's settings where this attempt changes them on purpose.
    Reads every file of it. Raises UserError where commits are there and none of them is whole, or
    where the history lacks a line that was committed.
    """
    found, checkpoints = Found(), ctx.store.checkpoints

    def look(folder: Path) -> dict[str, Any]:
        return _whole_state(folder, table, ctx, before)

    for folder in reversed(commits_in(checkpoints / "world")):
        with found.unless_damaged():
            state = look(folder)
            for role in ROLES:
                _check_named(checkpoints / role.value / folder.name, state)
                look(checkpoints / role.value / folder.name)
            ctx.store.history.check(state["num_history_lines"], state.get("history_sha256"))
            found.names = dict.fromkeys(("world", *(role.value for role in ROLES)), folder.name)
            break
    else:
        # A commit of Step 2 without one of the world counts for nothing: Step 1 is where the role
        # stands.
        _find_step_one(found, checkpoints, look)
    found.digests = {
        part: manifest_digest(checkpoints / part / name) for part, name in found.names.items()
    }
    return found


def _find_step_one(found: Found, checkpoints: Path, look: Callable[[Path], dict[str, Any]]) -> None:
    had_step_two = bool(found.damaged)
    for role in ROLES:
        num_damaged = len(found.damaged)
        whole = commits_in(checkpoints / role.value)
        for folder in reversed([path for path in whole if path.name.startswith("pretrain")]):
            with found.unless_damaged():
                look(folder)
                found.names[role.value] = folder.name
                break
        has_lost = had_step_two or len(found.damaged) > num_damaged
        if has_lost and role.value not in found.names:
            raise found.damaged[0]


def _whole_state(
    folder: Path, table: SplitTable, ctx: RunContext, before: str | None
) -> dict[str, Any]:
    state = read_state(folder)
    check_origin(state, folder, table, ctx, before=before)
    return state


def _check_named(folder: Path, world: Mapping[str, Any]) -> None:
    """Raise UserError where a role's commit is not the one that the world's names."""
    # A role may have committed this epoch once more, in an attempt that ended before its world
    # commit.
    manifest = folder / MANIFEST
    if not manifest.is_file() or file_digest(manifest) != world["manifests"][folder.parent.name]:
        rule = "is missing or not the one that the world commit names"
        way_out = f"restore {folder} from a copy, or start a new run"
        raise UserError(DAMAGED, manifest, rule, way_out)


def check_origin(
    state: Mapping[str, Any],
    folder: Path,
    table: SplitTable,
    ctx: RunContext,
    *,
    before: str | None = None,
) -> None:
    """Raise UserError where a commit was made by another run, with other settings or data."""
    # Settings that a person has changed on purpose: what came before the change still counts.
    known = [config_digest(ctx.config), *ctx.store.earlier_settings, before]
    for key, what, here in (
        ("run_id", "another run", [ctx.store.run_id]),
        ("config_sha256", "other settings", known),
        ("data_sha256", "other data or splits", [table.digest]),
    ):
        if state[key] not in here:
            raise UserError(
                "--resume",
                folder,
                f"was made with {what}",
                "leave the run directory as train wrote it, or start a new one",
            )


def agree_on_commits(found: Found | None, ctx: RunContext) -> dict[str, Path]:
    """Collective over all ranks: the commits that all go on from, by `world`, `a` and `b`.

    found: of the lead rank; None on the others. Ranks that each looked for themselves could take
    different ones, where a node's view of the directory is old. Raises UserError where a rank does
    not see the same. Without `world` Step 2 has not begun; without a role it has nothing yet.
    """
    rt, checkpoints = ctx.runtime, ctx.store.checkpoints
    for error in found.damaged if found else ():
        what = str(error).rpartition("; ")[0]
        ctx.reporter.warn(f"skipped for the commit before it: {what}")
    own = [found.names, found.digests] if found else None
    names, digests = broadcast_json(own, rt.control)
    together(lambda: _wait_for_commits(checkpoints, names, digests), rt.control)
    return {part: checkpoints / part / name for part, name in names.items()}


def _wait_for_commits(
    checkpoints: Path, names: Mapping[str, str], digests: Mapping[str, str]
) -> None:
    for part, name in names.items():
        wait_until_seen(checkpoints / part / name, partial(_has_manifest, digests[part]))


def _has_manifest(digest: str, folder: Path) -> bool:
    return manifest_digest(folder) == digest

"""Commits: a directory appears whole or not at all, and every byte of it is accounted for.

Tensors are safetensors, everything else is JSON. Files are written beside the target, flushed, and
the manifest with their SHA-256 last; then the directory is renamed into place.

    checkpoints/a/pretrain-00005/     model, optimizer, buffers-ROLE_RANK, state.json, manifest.json
    checkpoints/world/cotrain-00003/  ever_selected, state.json, manifest.json

A role commits alone, without meeting the other one; a world commit names one commit of each role by
the digest of its manifest.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from cotrain_dist.errors import UserError
from cotrain_dist.runtime.collectives import RankGroup, all_gather_json, barrier
from cotrain_dist.store import atomic
from cotrain_dist.store.shared import wait_until_seen

FORMAT = 1
MANIFEST = "manifest.json"
STATE = "state.json"

GONE = ".gone.tmp"
"""What the name of a commit ends in that is being deleted."""

DAMAGED = "checkpoint"
"""Key of the errors that tell of a commit that is not whole."""


def commit(
    target: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any] | None,
    group: RankGroup,
    fence: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Collective over `group`: write `target` so that a reader sees all of it or none of it.

    tensors: file name without ending -> named tensors, from every rank its own files.
    state: JSON values, from the first rank; the others pass None. An earlier `target` of the same
    name, from an attempt that went further than its last world commit, is replaced. fence: entered
    by the first rank around all that it does here; raises where it must write nothing.
    """
    beside = target.with_name(target.name + ".tmp")
    with fence() if group.index == 0 else nullcontext():
        try:
            _write_commit(target, beside, tensors, state, group)
        except BaseException:
            if group.index == 0:  # a full disk: what was begun would only keep it full
                shutil.rmtree(beside, ignore_errors=True)
            raise


def _write_commit(
    target: Path,
    beside: Path,
    tensors: Mapping[str, Mapping[str, Tensor]],
    state: Mapping[str, Any] | None,
    group: RankGroup,
) -> None:
    if group.index == 0:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
    # Else a rank might write into a folder that is not there yet, or is about to be cleared.
    barrier(group)
    wait_until_seen(beside)
    for name, values in tensors.items():
        # safetensors refuses what is not contiguous, as weights in channels-last layout are. And
        # bytes, not save_file(): what a manifest names has to be flushed to the disk first.
        contiguous = {key: value.detach().cpu().contiguous() for key, value in values.items()}
        atomic.write_flushed(beside / f"{name}.safetensors", safetensors.torch.save(contiguous))
    # After that the files of all ranks are complete, and the manifest is to list each of them.
    written = [
        f"{name}.safetensors" for names in all_gather_json(list(tensors), group) for name in names
    ]
    if group.index == 0:
        for name in written:
            wait_until_seen(beside / name)
        atomic.write_flushed(beside / STATE, json.dumps(state, indent=1).encode())
        files = {name: file_digest(beside / name) for name in sorted([STATE, *written])}
        manifest = {"format": FORMAT, "files": files}
        atomic.write_flushed(beside / MANIFEST, json.dumps(manifest, indent=1).encode())
        if target.is_dir():
            discard(target)
        beside.rename(target)
        atomic.flush_folder(target.parent)
    barrier(group)


def manifest_digest(folder: Path) -> str:
    """What tells a commit from any other; empty where its manifest cannot be read."""
    try:
        return file_digest(folder / MANIFEST)
    except OSError:
        return ""


def read_state(folder: Path) -> dict[str, Any]:
    """The state of a commit whose every file was checked. Raises UserError if one differs."""
    manifest = _read_json(folder / MANIFEST)
    if manifest.get("format") != FORMAT:
        raise UserError(
            DAMAGED,
            folder / MANIFEST,
            f"has format {manifest.get('format')}, this version reads {FORMAT}",
            "resume with the version that wrote it (environment.json names it)",
        )
    files = manifest.get("files")
    # A name that leads out of the folder is none that this package has written.
    if not isinstance(files, dict) or STATE not in files or not all(map(is_file_name, files)):
        raise _damaged(folder, MANIFEST, "is damaged: it does not name the files of a commit")
    for name, digest in files.items():
        if not (folder / name).is_file() or file_digest(folder / name) != digest:
            why = "is missing or damaged: its SHA-256 is not the manifest's"
            raise _damaged(folder, name, why)
    return _read_json(folder / STATE)


def is_file_name(name: str) -> bool:
    """Whether a name that stands in a file is one of a file beside it, and of none elsewhere."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0")


def _damaged(folder: Path, name: str, why: str) -> UserError:
    return UserError(
        DAMAGED, folder / name, why, f"restore {folder} from a copy, or start a new run"
    )


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """Named tensors of one file of a commit, on the CPU."""
    return safetensors.torch.load_file(folder / f"{name}.safetensors")


def commits_in(folder: Path) -> list[Path]:
    """The whole commits of a folder: those of pre-training, then those of Step 2, by epoch."""
    if not folder.is_dir():
        return []
    # `.tmp`: a kill has cut that commit short, or its deletion.
    whole = [path for path in folder.iterdir() if path.suffix != ".tmp" and path.is_dir()]
    return sorted(whole, key=lambda path: (path.name.startswith("cotrain"), path.name))


def keep_last(folder: Path, num_kept: int) -> None:
    """Delete all but the newest commits of a folder, and what a kill has left of deleted ones."""
    for path in commits_in(folder)[:-num_kept]:
        discard(path)
    for left in folder.glob(f"*{GONE}"):
        shutil.rmtree(left, ignore_errors=True)


def discard(commit: Path) -> None:
    """Delete a commit so that a reader sees all of it or none of it, as when it was written."""
    gone = commit.with_name(commit.name + GONE)
    shutil.rmtree(gone, ignore_errors=True)
    commit.rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    # In blocks: a file of weights need not fit into memory a second time.
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack_optimizer(optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """An optimizer's state as named tensors and JSON values."""
    # Taken apart, since a pickled file may execute code when it is read.
    state = optimizer.state_dict()
    tensors: dict[str, Tensor] = {}
    values: dict[str, dict[str, Any]] = {}
    for index, entries in state["state"].items():
        for name, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{index}.{name}"] = value
            else:
                values.setdefault(str(index), {})[name] = value  # keys of JSON are text
    return tensors, {"values": values, "param_groups": state["param_groups"]}


def unpack_optimizer(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], rest: Mapping[str, Any]
) -> None:
    """Load what `pack_optimizer` returned."""
    state: dict[int, dict[str, Any]] = {
        int(index): dict(entries) for index, entries in rest["values"].items()
    }
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": rest["param_groups"]})


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text())
    # Of UTF-8 as well, and of thousands of open brackets.
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path.parent, path.name, f"cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise _damaged(path.parent, path.name, "is damaged: it holds no mapping")
    return value

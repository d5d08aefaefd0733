"""What costs nothing to notice: paths that cannot be meant, before torch is imported."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cotrain_dist.config.tree import Config
from cotrain_dist.errors import PeerUserError, UserError


def check_early(config: Config, *, is_new_run: bool = False) -> None:
    """Check what is read from, and where a new run is to lie.

    Not where ranks lie on several nodes: one node may lack what the others have, and only a
    collective check ends all of them at once. Raises UserError; on other ranks than the first a
    PeerUserError, which is not shown again.
    """
    with _on_one_node() as is_early:
        if is_early and is_new_run:
            check_output_dir(Path(config.output_dir))
        if is_early:
            _check_inputs(config)


def check_output_early(file: Path | None, endings: Sequence[str], *, replaces: bool) -> None:
    """`check_output_file`, where all ranks lie on one node."""
    with _on_one_node() as is_early:
        if is_early and file is not None:
            check_output_file(file, endings, replaces=replaces)


@contextmanager
def _on_one_node() -> Iterator[bool]:
    """Whether all ranks lie on this node; a UserError of the block is shown by the first alone."""
    num_ranks = os.environ.get("WORLD_SIZE", "1")
    num_here = os.environ.get("LOCAL_WORLD_SIZE", num_ranks if num_ranks == "1" else "")
    try:
        yield num_here == num_ranks
    except UserError as error:
        if os.environ.get("RANK", "0") != "0":
            raise PeerUserError(str(error)) from error
        raise


def check_output_file(file: Path, endings: Sequence[str], *, replaces: bool) -> None:
    """Raise UserError where a command cannot write its `--output`.

    endings: those of the formats that it writes. replaces: whether a file may lie there already.
    """
    if file.suffix not in endings:
        rule, way_out = f"must end in {' or '.join(endings)}", f"name it results{endings[0]}, say"
        raise UserError("--output", file, rule, way_out)
    if file.is_dir() or (file.exists() and not replaces):
        raise UserError("--output", file, "exists already", "name another file, or delete it")
    if not file.parent.is_dir():
        raise UserError("--output", file, "its folder does not exist", "make the folder first")


def _check_inputs(config: Config) -> None:
    """Raise UserError where a folder or file that images or labels are read from is not there.

    What is in them is looked at when they are listed.
    """
    data = config.data
    # torchvision makes its folder where it downloads to.
    roots = {"data.root": data.root} if data.source in ("imagefolder", "csv") else {}
    for key, folder in (roots | {"data.unlabeled": data.unlabeled, "data.test": data.test}).items():
        if folder and not Path(folder).is_dir():
            raise UserError(key, folder, "is no folder", "give the path of one that is there")
    tables = {"data.table": data.table} if data.source == "csv" else {}
    for key, file in (tables | {"data.extra_labels": data.extra_labels}).items():
        if file and not Path(file).is_file():
            raise UserError(key, file, "is no file", "give the path of one that is there")


def check_output_dir(path: Path) -> None:
    """Raise UserError where something lies that a new run would have to write over."""
    if path.exists() and not is_free(path):
        raise UserError(
            "output_dir",
            path,
            "exists already and is never written over",
            f"go on with it (train --resume {path}), name another directory, or delete it",
        )


UNFINISHED = {"lock", "fence", "config.yaml", "splits.parquet"}
"""Files of a run directory before it counts as a run."""


def is_free(path: Path) -> bool:
    """Whether nothing lies there, or a run that was killed while it was being made."""
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    return not names or ("lock" in names and all(map(is_unfinished, names)))


def is_unfinished(name: str) -> bool:
    """Whether a file stems from a run that was killed while its directory was being made."""
    # Files are written beside their place first (store/atomic.py), and a kill may leave such a one.
    is_beside = name.endswith(".tmp") and name.startswith((*UNFINISHED, "run.json"))
    return name in UNFINISHED or is_beside

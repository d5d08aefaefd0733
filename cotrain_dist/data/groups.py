"""The groups of a run on disk: one table, drawn once, read by every later command on the run."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources.listing import TEST, UNKNOWN, UNLABELED, Listing
from cotrain_dist.errors import UserError
from cotrain_dist.method.splits import Group, Shares, draw_groups

GROUPS_FILE = "groups.parquet"
COLUMNS = ("source", "path", "class", "group", "size", "sha256")


@dataclass(frozen=True)
class GroupTable:
    """Every image of a run, its class and its group; a sample_id is a row."""

    listing: Listing
    groups: Tensor
    """[N] int64 of `Group` values."""

    @property
    def class_ids(self) -> Tensor:
        """[N] int64: the true class of each sample_id."""
        return self.listing.class_ids

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id."""
        return self.listing.class_names

    def sample_ids(self, group: Group) -> Tensor:
        """The ids of a group, [n] int64 in ascending order."""
        return (self.groups == group).nonzero().flatten()

    def to_arrow(self) -> pa.Table:
        """As stored: one row a sample_id, the class names in order in the schema's metadata."""
        names = self.class_names
        columns = {
            "source": list(self.listing.sources),
            "path": list(self.listing.paths),
            "class": [None if i == UNKNOWN else names[i] for i in self.class_ids.tolist()],
            "group": [Group(group).name for group in self.groups.tolist()],
            "size": list(self.listing.sizes),
            "sha256": list(self.listing.digests),
        }
        return pa.table(columns).replace_schema_metadata({"class_names": json.dumps(names)})

    def digest(self) -> str:
        """SHA-256 over all rows: what a checkpoint must have been made from."""
        text = "\n".join(map(str, self.to_arrow().to_pylist()))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_parquet(self) -> bytes:
        """The content of groups.parquet."""
        sink = pa.BufferOutputStream()
        pq.write_table(self.to_arrow(), sink)
        return bytes(sink.getvalue().to_pybytes())


def shares_of(config: DataConfig) -> Shares:
    """The configured shares of a class; T has none where data.test names a folder."""
    test = config.test_fraction if config.test_per_class is None else config.test_per_class
    return Shares(
        test=0 if config.test else test,
        validation=config.validation_fraction,
        labeled=(
            config.labeled_fraction
            if config.labeled_per_class is None
            else config.labeled_per_class
        ),
    )


def draw_group_table(listing: Listing, config: DataConfig, seed: int) -> GroupTable:
    """Draw the groups of a listing. Raises UserError where a class is too small."""
    shares = shares_of(config)
    sources = np.array(listing.sources)
    groups = torch.full((len(sources),), Group.U, dtype=torch.int64)
    groups[torch.from_numpy(sources == TEST)] = Group.T
    own = torch.from_numpy((sources != TEST) & (sources != UNLABELED))
    labeled = own & (listing.class_ids != UNKNOWN)
    has_others = bool((own & ~labeled).any()) or UNLABELED in listing.sources  # they fill U
    groups[labeled] = draw_groups(
        listing.class_ids[labeled], listing.class_names, shares, seed, pool_needed=not has_others
    )
    return GroupTable(listing, groups)


def load_group_table(path: Path) -> GroupTable:
    """Read the groups of a run; `path` is a run directory or its groups.parquet."""
    path = path / GROUPS_FILE if path.is_dir() else path
    if not path.is_file():
        raise UserError(
            "data.groups_from", path, "is no file", "name a run directory or its groups.parquet"
        )
    try:
        return parse_group_table(path.read_bytes())
    except (pa.ArrowException, OSError, LookupError, TypeError, ValueError) as error:
        raise UserError(
            "data.groups_from",
            path,
            f"is no table of groups ({str(error).splitlines()[0]})",
            "name a groups.parquet that a run has written",
        ) from error


def parse_group_table(content: bytes) -> GroupTable:
    """The table that `to_parquet` wrote."""
    table = pq.read_table(pa.BufferReader(content))
    if not len(table):
        raise ValueError("it has no rows")
    columns = {name: table.column(name).to_pylist() for name in COLUMNS}
    names = tuple(json.loads(table.schema.metadata[b"class_names"]))
    id_of: dict[str | None, int] = {name: class_id for class_id, name in enumerate(names)}
    id_of[None] = UNKNOWN
    listing = Listing(
        sources=tuple(columns["source"]),
        paths=tuple(columns["path"]),
        class_ids=torch.tensor([id_of[name] for name in columns["class"]]),
        class_names=names,
        sizes=tuple(columns["size"]),
        digests=tuple(columns["sha256"]),
    )
    groups = torch.tensor([Group[name].value for name in columns["group"]])
    return GroupTable(listing, groups)

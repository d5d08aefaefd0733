"""What surrounds a training on this rank: two small records, and plain arguments for the rest."""

from dataclasses import dataclass

from cotrain_dist.config import Config
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.data.stream import PixelSource
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.progress import Reporter
from cotrain_dist.store.run_directory import RunDirectory


@dataclass(frozen=True)
class RunContext:
    """The run: what was asked for, among whom, where it is kept, and whom it is told to.

    What concerns one model alone stands in its student's `RoleConfig`.
    """

    config: Config
    runtime: Runtime
    store: RunDirectory
    reporter: Reporter


@dataclass(frozen=True)
class Images:
    """The images: which there are, with class and split, and their pixels."""

    table: SplitTable
    pixels: PixelSource

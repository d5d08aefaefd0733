"""What every part of a training needs: settings, ranks, images, the run's directory."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cotrain_dist.config import Config
from cotrain_dist.data.groups import GroupTable
from cotrain_dist.data.sources import ReadImage
from cotrain_dist.method.splits import Group
from cotrain_dist.reporting.progress import Reporter
from cotrain_dist.reporting.run_directory import RunDirectory
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.types import PseudoLabeled, Role


@dataclass(frozen=True)
class Experiment:
    """The fixed surroundings of one training on this rank."""

    config: Config
    config_digest: str
    data_digest: str
    rt: Runtime
    table: GroupTable
    read: ReadImage
    run: RunDirectory
    reporter: Reporter


@dataclass(frozen=True)
class Samples:
    """What a model learns in an epoch: sample_ids [N] int64 and targets [N] int64."""

    sample_ids: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.sample_ids)

    def __add__(self, taught: PseudoLabeled) -> "Samples":
        return Samples(
            torch.cat([self.sample_ids, taught.sample_ids]),
            torch.cat([self.targets, taught.labels]),
        )


def labeled_samples(table: GroupTable, role: Role, labels: str) -> Samples:
    """L of a role: its own group, or with `labels` shared L_A and L_B; in ascending order."""
    own = Group.L_A if role is Role.A else Group.L_B
    groups = [Group.L_A, Group.L_B] if labels == "shared" else [own]
    sample_ids = torch.cat([table.sample_ids(group) for group in groups]).sort().values
    return Samples(sample_ids, table.class_ids[sample_ids])

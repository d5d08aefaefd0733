"""Files whose features a run of heads has kept: their labels take a product with the last layer."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from cotrain_dist.models import head_of
from cotrain_dist.runtime.collectives import all_gather_rows
from cotrain_dist.training.context import RunContext
from cotrain_dist.training.features import open_store
from cotrain_dist.training.student import Classifier, Frozen

UNREADABLE = "0" * 64


def classifiers_of_kept(
    classifiers: Sequence[Classifier], files: Sequence[str], ctx: RunContext
) -> tuple[list[Classifier], Tensor]:
    """The classifiers on features instead of pixels, and of which files they can be asked.

    Collective over all ranks; [n] bool, equal on all of them: a file counts where every rank finds
    its features for each model that it holds. Without `train: head` none does.
    """
    is_kept = torch.zeros(len(files), dtype=torch.bool)
    found = []
    if all(classifier.config.model.train == "head" for classifier in classifiers):
        digests = [_digest(Path(file)) for file in files]
        is_kept[:] = True
        for classifier in classifiers:
            head = head_of(classifier.whole, f"model_{classifier.role.value}.train")
            store = open_store(
                classifier.whole, head, classifier.preprocessing, digests, ctx.config.data
            )
            store.look()
            is_kept &= store.found()
            cpu = torch.device("cpu")
            frozen = Frozen(copy.deepcopy(head).cpu(), store)  # pixels may yet need the whole model
            found.append(replace(classifier, model=frozen.head, frozen=frozen, device=cpu))
    rows = all_gather_rows(is_kept[None].to(torch.uint8), ctx.runtime.control)
    return found, torch.cat(rows).bool().all(dim=0)


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:  # it is told of where it is read as an image
        return UNREADABLE

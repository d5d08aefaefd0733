"""A finished (or half-finished) run as two classifiers: evaluate and predict."""

import glob
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from cotrain_dist.config import Config
from cotrain_dist.data.groups import GroupTable, load_group_table
from cotrain_dist.data.sources import image_reader
from cotrain_dist.data.sources.files import images_below, list_test, read_file
from cotrain_dist.data.sources.listing import TEST
from cotrain_dist.data.sources.rgb import to_rgb
from cotrain_dist.data.stream import Transform
from cotrain_dist.errors import UserError
from cotrain_dist.method.metrics import Accuracy, Confusion, class_recall, measure_accuracy
from cotrain_dist.method.splits import Group
from cotrain_dist.models import build_model
from cotrain_dist.reporting.progress import Reporter
from cotrain_dist.reporting.run_directory import RunDirectory
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.collectives import broadcast_json, together
from cotrain_dist.training.evaluate import gather_probs
from cotrain_dist.training.experiment import Experiment
from cotrain_dist.training.student import Classifier, build_classifier
from cotrain_dist.types import Prediction, Role

BLOCK_SIZE = 4096
"""Images whose probabilities are gathered at a time: bounds the memory of long predictions."""


@dataclass(frozen=True)
class Figures:
    """What `evaluate` measured; keys a, b, ensemble."""

    accuracy: dict[str, Accuracy]
    recall: dict[str, Tensor]
    """[C] float64 each: share of a class's images called by its name; NaN where it has none."""
    labels: dict[str, Tensor]
    """[N] int64 each."""
    targets: Tensor
    """[N] int64."""

    def as_dict(self, class_names: list[str], confused: list[Confusion]) -> dict[str, Any]:
        """For JSON."""
        counts = torch.bincount(self.targets, minlength=len(class_names)).tolist()
        return {
            "num_images": len(self.targets),
            **{name: accuracy.as_dict() for name, accuracy in self.accuracy.items()},
            "classes": {
                name: {"num_images": counts[class_id]}
                | {
                    who: recall[class_id].item() if counts[class_id] else None
                    for who, recall in self.recall.items()
                }
                for class_id, name in enumerate(class_names)
            },
            "most_confused": [
                {"class": class_names[c.true], "called": class_names[c.called], "count": c.count}
                for c in confused
            ],
        }


def evaluate(classifiers: Sequence[Classifier], sample_ids: Tensor, exp: Experiment) -> Figures:
    """Collective over all ranks: A, B and both together on labeled images, each counted once."""
    probs = gather_probs(classifiers, sample_ids, exp)
    targets = exp.table.class_ids[sample_ids]
    labels = {name: values.argmax(dim=1) for name, values in probs.items()}
    num_classes = len(exp.table.class_names)
    return Figures(
        accuracy={name: measure_accuracy(values, targets) for name, values in probs.items()},
        recall={name: class_recall(own, targets, num_classes) for name, own in labels.items()},
        labels=labels,
        targets=targets,
    )


def open_run(config: Config, rt: Runtime, *, show: bool = True) -> Experiment:
    """The surroundings of a run's models; `config.output_dir` is the run. Reads no image yet."""
    run = RunDirectory(Path(config.output_dir))
    table = load_group_table(run.groups)

    def read_nothing(sample_id: int) -> Image.Image:
        raise AssertionError(f"no source was opened to read image {sample_id}")

    return Experiment(
        config=config,
        config_digest="",
        data_digest="",
        rt=rt,
        table=table,
        read=read_nothing,
        run=run,
        reporter=Reporter(show=rt.is_lead and show),
    )


def load_classifiers(exp: Experiment) -> list[Classifier]:
    """The saved models of the roles that this rank holds. Raises UserError where there are none."""
    classifiers = []
    for role in exp.rt.roles_here:
        own = exp.config.model_a if role is Role.A else exp.config.model_b
        saved = replace(own, pretrained=False, init_from=str(exp.run.models / role.value))
        size = own.image_size or exp.config.data.image_size
        model = build_model(saved, role, exp.table.class_names, size, exp.config.seed)
        classifiers.append(build_classifier(role, model, exp.config, exp.rt))
    return classifiers


def labeled_images(exp: Experiment, on: str) -> tuple[Experiment, Tensor]:
    """The images to evaluate on: a group of the run (T, V, U, L_A, L_B), or a folder of classes.

    Returns surroundings that read them, and their sample_ids; images without label are left out.
    """
    if on in Group.__members__:
        ids = exp.table.sample_ids(Group[on])
        ids = ids[exp.table.class_ids[ids] >= 0]
        if not len(ids):
            raise UserError("--on", on, "the run has no labeled image there", "try --on T")
        return replace(exp, read=image_reader(exp.config.data, exp.table.listing)), ids
    folder = Path(on)
    if not folder.is_dir():
        raise UserError(
            "--on", on, "is neither a group nor a folder", "give T, V, U or a folder of classes"
        )
    listing = list_test(folder, exp.table.class_names)
    table = GroupTable(listing, torch.full((len(listing.paths),), Group.T, dtype=torch.int64))
    data = replace(exp.config.data, source="digits", test=on, unlabeled=None)
    assert set(listing.sources) == {TEST}
    return replace(exp, table=table, read=image_reader(data, listing)), table.sample_ids(Group.T)


def expand_images(patterns: Sequence[str]) -> list[str]:
    """Files, the images below folders, and what globs match; sorted within each, none twice."""
    found: dict[str, None] = {}
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            matches = [str(image) for image in images_below(path)]
        elif path.is_file():
            matches = [pattern]
        else:
            matches = sorted(glob.glob(pattern, recursive=True))
        if not matches:
            raise UserError(
                "IMAGES", pattern, "matches no image", "name files, folders or quoted globs"
            )
        found |= dict.fromkeys(matches)
    return list(found)


def agree_on_images(patterns: Sequence[str], rt: Runtime) -> list[str]:
    """Collective over all ranks: the lead rank's `expand_images`, on every rank."""
    own = together(lambda: expand_images(patterns) if rt.is_lead else [], rt.control)
    files: list[str] = broadcast_json(own, rt.control)
    return files


def predict_files(
    classifiers: Sequence[Classifier], files: Sequence[str], exp: Experiment
) -> Iterator[tuple[list[Prediction], list[str]]]:
    """Collective over all ranks: predictions and broken files, block by block, on every rank.

    A file that cannot be decoded is told apart by logits that are not finite: every rank then
    passes over it, whichever rank met it.
    """
    names = exp.table.class_names
    tolerant = [
        replace(classifier, eval_transform=_nan_where_broken(classifier))
        for classifier in classifiers
    ]
    for start in range(0, len(files), BLOCK_SIZE):
        block = files[start : start + BLOCK_SIZE]
        reading = replace(exp, read=partial(_read_or_none, block))
        probs = gather_probs(tolerant, torch.arange(len(block)), reading, keep_invalid=True)
        valid = torch.stack([p.isfinite().all(dim=1) for p in probs.values()]).all(dim=0)
        rows = [
            _prediction(block[index], index, probs, names)
            for index in valid.nonzero().flatten().tolist()
        ]
        yield rows, [block[index] for index in (~valid).nonzero().flatten().tolist()]


def _prediction(
    path: str, index: int, probs: dict[str, Tensor], names: Sequence[str]
) -> Prediction:
    tops = {name: values[index].max(dim=0) for name, values in probs.items()}
    labels = {name: names[int(top.indices)] for name, top in tops.items()}
    return Prediction(
        path=path,
        label_a=labels["a"],
        confidence_a=tops["a"].values.item(),
        label_b=labels["b"],
        confidence_b=tops["b"].values.item(),
        label=labels["ensemble"],
        confidence=tops["ensemble"].values.item(),
    )


def _read_or_none(files: Sequence[str], index: int) -> Image.Image | None:
    try:
        return to_rgb(read_file(Path(files[index])))
    except UserError:
        return None


def _nan_where_broken(classifier: Classifier) -> Transform:
    size, transform = classifier.preprocessing.image_size, classifier.eval_transform

    def apply(image: Image.Image | None) -> Tensor:
        return torch.full((3, size, size), torch.nan) if image is None else transform(image)

    return apply

"""A run's models measured on labeled images."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cotrain_dist.config import Config, DataConfig, ModelConfig, RoleConfig, resolve_role
from cotrain_dist.config.starts import CONFIG
from cotrain_dist.data.sources.files import list_test
from cotrain_dist.data.sources.listing import TEST
from cotrain_dist.data.splits import SplitTable, load_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.method.metrics import Accuracy, Confusion, class_recall, measure_accuracy
from cotrain_dist.method.splits import Split
from cotrain_dist.models import build_model
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.progress import Reporter
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import gather_probs
from cotrain_dist.training.setup import open_pixels
from cotrain_dist.training.student import Classifier, build_classifier


@dataclass(frozen=True)
class Figures:
    """What `evaluate` measured; keys a, b, ensemble."""

    accuracy: dict[str, Accuracy]
    recall: dict[str, Tensor]
    """[C] float64 each: fraction of a class's images called by its name; NaN where it has none."""
    labels: dict[str, Tensor]
    """[N] int64 each."""
    targets: Tensor
    """[N] int64."""

    def to_json(self, class_names: Sequence[str], confused: list[Confusion]) -> dict[str, Any]:
        """For JSON."""
        counts = torch.bincount(self.targets, minlength=len(class_names)).tolist()
        return {
            "num_images": len(self.targets),
            **{name: asdict(accuracy) for name, accuracy in self.accuracy.items()},
            "classes": {
                name: {"num_images": counts[class_id]}
                | {
                    # JSON knows no NaN, which stands for a class without images.
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


def evaluate(
    classifiers: Sequence[Classifier], sample_ids: Tensor, images: Images, ctx: RunContext
) -> Figures:
    """Collective over all ranks: A, B and both together on labeled images, each counted once."""
    probs = gather_probs(classifiers, sample_ids, images, ctx)
    targets = images.table.class_ids[sample_ids]
    labels = {name: values.argmax(dim=1) for name, values in probs.items()}
    num_classes = len(images.table.class_names)
    return Figures(
        accuracy={name: measure_accuracy(values, targets) for name, values in probs.items()},
        recall={name: class_recall(own, targets, num_classes) for name, own in labels.items()},
        labels=labels,
        targets=targets,
    )


def open_run(config: Config, rt: Runtime, *, show: bool = True) -> tuple[RunContext, SplitTable]:
    """The surroundings of a run's models, and its images; `config.output_dir` is the run."""
    store = RunDirectory(Path(config.output_dir))
    reporter = Reporter(show=rt.is_lead and show)
    return RunContext(config, rt, store, reporter), load_split_table(store.path)


def load_classifiers(
    class_names: Sequence[str], ctx: RunContext, *, of: str = ""
) -> list[Classifier]:
    """The saved models of the roles that this rank holds. Raises UserError where there are none.

    of: how their folders' names begin: `step_one_` for those at the end of Step 1.
    """
    classifiers = []
    for role in ctx.runtime.roles_here:
        own = _role_of_saved(ctx.config, role.value, ctx.store.models / f"{of}{role.value}")
        model = build_model(own, role, class_names)
        classifiers.append(build_classifier(role, model, own, ctx.runtime))
    return classifiers


def _role_of_saved(config: Config, name: str, folder: Path) -> RoleConfig:
    """The settings of a role that was trained, without the folder that it once started from.

    That may lie elsewhere by now; the saved model says as much of itself.
    """
    key = f"model_{name}"
    own: ModelConfig = getattr(config, key)
    if isinstance(own.pretrained, str) and (folder / CONFIG).is_file():
        own = replace(own, pretrained=str(folder), name=None)
    changed: dict[str, Any] = {key: own}
    resolved = resolve_role(replace(config, **changed), name)
    # The saved weights are all that counts: nothing is to be downloaded for them.
    saved = replace(resolved.model, pretrained=False, init_from=str(folder))
    return replace(resolved, model=saved)


def notes_of_best(run: Path) -> dict[str, Any] | None:
    """What models/best says of its making; None where there is none, or a damaged one."""
    try:
        notes = json.loads((run / "models" / "best" / CONFIG).read_text())["cotrain_dist"]
        return {key: notes[key] for key in ("role", "epoch", "chosen_on")}
    except (OSError, ValueError, LookupError, TypeError):
        return None


def labeled_images(table: SplitTable, on: str, ctx: RunContext) -> tuple[Images, Tensor]:
    """The images to evaluate on: a split of the run (T, V, U, L_A, L_B), or a folder of classes.

    table: of the run. Returns the images and their sample_ids; those without a label are left
    out.
    """
    data = ctx.config.data
    if on in Split.__members__ and on != Split.OUT.name:
        ids = table.sample_ids(Split[on])
        ids = ids[table.class_ids[ids] >= 0]
        if not len(ids):
            way_out = "give a folder of classes" if on == "T" else "try --on T"
            raise UserError("--on", on, "the run has no labeled image there", way_out)
        return Images(table, open_pixels(data, table.listing, ctx.runtime, ctx.reporter)), ids
    folder = Path(on)
    if not folder.is_dir():
        raise UserError(
            "--on", on, "is neither a split nor a folder", "give T, V, U or a folder of classes"
        )
    listing = list_test(folder, table.class_names, follow_links=data.follow_links)
    found = SplitTable(listing, torch.full((len(listing.paths),), Split.T, dtype=torch.int64))
    # `digits` is the source that needs no folder; no image of it is read. The run's other settings
    # stay behind: their rules, on fractions that must fit, are about other images.
    data = DataConfig(
        source="digits",
        test=on,
        num_workers=data.num_workers,
        cache=data.cache,
        cache_gb=data.cache_gb,
    )
    assert set(listing.sources) == {TEST}
    pixels = open_pixels(data, listing, ctx.runtime, ctx.reporter)
    return Images(found, pixels), found.sample_ids(Split.T)

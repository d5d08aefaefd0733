"""How good can heads be that see labels alone? The grid behind the arm `vote`, on V.

    python benchmarks/heads_of_labels_alone.py CLASS_FOLDERS START_A START_B --num_labels 612
        [--seeds 100 101 102] [--labels_by random herding] [--test_fraction 0.2] [--study FOLDER]

Each trial is a form of the features (plain; of length 1; roots of length 1; whitened, by all images
that are not held out) and a kind of head (logistic regression; one direction per class), with its
penalty or concentration chosen by cross-validation on the labels, and for logistic regression on
plain features with several penalties and below. The last rows choose among the forms by
cross-validation, for each model by itself, or take the mean of both kinds of heads. T is never
looked at. Whitening and centers see images of U, no label of theirs. Prints the vote of both models
on V in %: mean, standard deviation, and the gain over what the product fits, paired by seed.

With --study, the folder of a `reproduce --labels_by`, the trials of FROZEN alone, which were best
on V of Caltech-101, are measured once: on T, with the labels of that study.
"""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

import numpy as np
import torch
from torch import Tensor

from cotrain_dist.config import Config, resolve_role
from cotrain_dist.config.parsing import parse_config
from cotrain_dist.data.sources import list_images
from cotrain_dist.data.splits import SplitTable, draw_split_table, load_split_table
from cotrain_dist.inference.choose import Query, choose
from cotrain_dist.keys import keyed_generator
from cotrain_dist.method.class_means import (
    Whitening,
    encode_roots,
    moments_of,
)
from cotrain_dist.method.heads import (
    PENALTIES,
    Floats,
    Ints,
    choose_penalty,
    fit_head,
    folds_of,
    log_sum_exp,
    scaling_of,
)
from cotrain_dist.method.splits import Split
from cotrain_dist.runtime.accelerator import Runtime
from cotrain_dist.runtime.progress import Reporter
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.study.labels import pool_of
from cotrain_dist.study.labels_by import LABELS, SPLITS_OF_SEED
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.features import JointFeatures, both_features
from cotrain_dist.training.setup import first_models, open_pixels, start_world
from cotrain_dist.training.student import build_classifier

SHRINKAGES = (0.3, 1.0, 3.0, 10.0, 30.0)
POOR = ("whitened 0.3", "whitened 1")
"""Forms on which a try of logistic regression was 8 points and more below plain features."""
LOWER_PENALTIES = (1e-6, 1e-5)
"""Below those that the product chooses from."""
CONCENTRATIONS = (5.0, 10.0, 20.0, 40.0, 80.0)
LOWEST = 1e-12

Probs = Callable[[Floats], Floats]
"""From rows of features to class probabilities."""

Held = tuple[float, float]
"""Loss and error rate on labels that were not seen."""


@dataclass(frozen=True)
class Labeled:
    """One model's labeled rows [n, F], their classes [n], and the images that are not held out."""

    rows: Floats
    targets: Ints
    pool: Floats
    num_classes: int
    seed: int


def unit(rows: Floats) -> Floats:
    """Rows scaled to length 1."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), LOWEST)


def roots(rows: Floats) -> Floats:
    """The power transform of `method/class_means.py`."""
    return unit(np.sign(rows) * np.sqrt(np.abs(rows)))


def form_of(name: str, pool: Floats) -> Probs:
    """The named form of features, fitted to the images that are not held out."""
    kind, _, value = name.partition(" ")
    if kind == "plain":
        return lambda rows: rows
    if kind == "length1":
        center = pool.mean(axis=0)
        return lambda rows: unit(rows - center)
    if kind == "roots":
        center = roots(pool).mean(axis=0)
        return lambda rows: unit(roots(rows) - center)
    assert kind == "whitened"
    points = encode_roots(pool.astype(np.float32))
    whitening = Whitening.of(*moments_of(points), len(points), float(value))
    return lambda rows: whitening.apply(encode_roots(rows.astype(np.float32))) / 2.0**14


def logistic(given: Labeled, penalty: float | None) -> tuple[Probs, Held]:
    """A head, and its loss on labels that it has not seen (cross-validation)."""
    scaling = scaling_of(given.pool)
    if penalty is None:
        penalty = choose_penalty(given.rows, given.targets, given.num_classes, scaling, given.seed)

    def fit(rows: Floats, targets: Ints) -> Probs:
        head = fit_head(rows, targets, given.num_classes, penalty, scaling)
        return lambda seen: softmax(seen @ head.weight.T + head.bias)

    return fit(given.rows, given.targets), held_out(fit, given)


def directions(given: Labeled) -> tuple[Probs, Held]:
    """One direction per class; the concentration is chosen by cross-validation."""

    def fit_with(concentration: float) -> Callable[[Floats, Ints], Probs]:
        def fit(rows: Floats, targets: Ints) -> Probs:
            sums = np.zeros((given.num_classes, rows.shape[1]))
            np.add.at(sums, targets, rows)
            counts = np.bincount(targets, minlength=given.num_classes)
            own = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), LOWEST)
            prior = np.where(counts > 0, np.log((counts + 0.5) / (counts + 0.5).sum()), -1e4)
            return lambda seen: softmax(concentration * unit(seen) @ own.T + prior)

        return fit

    losses = [held_out(fit_with(value), given) for value in CONCENTRATIONS]
    best = int(np.argmin([loss for loss, _ in losses]))
    return fit_with(CONCENTRATIONS[best])(given.rows, given.targets), losses[best]


def held_out(fit: Callable[[Floats, Ints], Probs], given: Labeled) -> Held:
    """Mean loss and error rate of the labeled rows, each under a fit that has not seen it."""
    folds = folds_of(given.targets, given.seed)
    losses, errors = np.full(len(folds), -np.log(1e-3)), np.ones(len(folds))
    for fold in range(int(folds.max()) + 1 if folds.max() else 0):
        held = folds == fold
        probs = fit(given.rows[~held], given.targets[~held])(given.rows[held])
        own = probs[np.arange(int(held.sum())), given.targets[held]]
        losses[held] = -np.log(np.maximum(own, 1e-3))
        errors[held] = probs.argmax(axis=1) != given.targets[held]
    return float(losses.mean()), float(errors.mean())


def softmax(logits: Floats) -> Floats:
    """Probabilities [n, C]."""
    return np.asarray(np.exp(logits - log_sum_exp(logits)[:, None]))


def trials() -> Mapping[str, tuple[str, Callable[[Labeled], tuple[Probs, Held]]]]:
    """Name -> form and kind of head."""
    forms = ["plain", "length1", "roots", *(f"whitened {value:g}" for value in SHRINKAGES)]
    found = {
        f"logistic, {form}": (form, lambda given: logistic(given, None))
        for form in forms
        if form not in POOR
    }
    for value in (*LOWER_PENALTIES, *PENALTIES[:4]):
        found[f"logistic, plain, penalty {value:.1e}"] = (
            "plain",
            lambda given, value=value: logistic(given, value),
        )
    found |= {f"directions, {form}": (form, directions) for form in forms}
    return found


BASE = "logistic, plain"
"""What the product fits."""

FROZEN = (BASE, "directions, whitened 3")
"""And the mean of both."""


def measure(
    stores: Sequence[FeatureStore],
    table: SplitTable,
    seed: int,
    labeled: Tensor,
    *,
    is_study: bool,
) -> dict[str, float]:
    """Accuracy of the vote in % by trial: on V, or on T with the labels of a study."""
    ids, pool = labeled.sort().values, pool_of(table)
    held = table.sample_ids(Split.T if is_study else Split.V)
    tried = {name: own for name, own in trials().items() if name in FROZEN or not is_study}
    targets = table.class_ids[ids].numpy()
    probs: dict[str, list[Floats]] = {}
    losses: dict[str, list[Held]] = {}
    for store in stores:
        rows = [store.read(some).double().numpy() for some in (ids, pool, held)]
        forms: dict[str, list[Floats]] = {}
        for name, (form, kind) in tried.items():
            if form not in forms:
                change = form_of(form, rows[1])
                forms[form] = [change(own) for own in rows]
            learned, unlabeled, seen = forms[form]
            given = Labeled(learned, targets, unlabeled, len(table.class_names), seed)
            predict, loss = kind(given)
            probs.setdefault(name, []).append(predict(seen))
            losses.setdefault(name, []).append(loss)
    free = [name for name in tried if "penalty" not in name]
    for place, what in enumerate(("loss", "errors")):
        chosen = [min(free, key=lambda name: losses[name][i][place]) for i in range(2)]
        probs[f"chosen by {what}"] = [probs[name][i] for i, name in enumerate(chosen)]
        print(f"seed {seed}: chosen by {what}: {chosen}", flush=True)
    for name in (name for name in free if name.startswith("directions")):
        probs[f"{BASE}, and {name}"] = [*probs[BASE], *probs[name]]
    truth = table.class_ids[held].numpy()
    return {
        name: 100 * float((np.mean(own, axis=0).argmax(axis=1) == truth).mean())
        for name, own in probs.items()
    }


def main() -> None:
    """Run the grid, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("images", "start_a", "start_b"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[100, 101, 102])
    parser.add_argument("--labels_by", nargs="+", default=["random", "herding"])
    parser.add_argument("--num_labels", type=int, required=True)
    parser.add_argument("--test_fraction", type=float, default=0.2)
    parser.add_argument("--study", type=Path)
    given = parser.parse_args()
    config = _config(given)
    found: dict[str, dict[str, list[float]]] = {}
    with start_world(config) as rt:
        for seed in given.seeds:
            table = _table(given, config, seed)
            stores = _stores(config, table, rt)
            for strategy in given.labels_by:
                labeled = _labels(given, seed, strategy, table, stores, rt)
                values = measure(stores, table, seed, labeled, is_study=given.study is not None)
                for name, value in values.items():
                    found.setdefault(strategy, {}).setdefault(name, []).append(value)
                report(found, strategy)


def _config(given: argparse.Namespace) -> Config:
    values = {
        "device": "cpu",
        "data.root": str(given.images),
        "data.image_size": 112,
        "data.test_fraction": given.test_fraction,
        "data.validation_fraction": 0.2,
        "data.labeled_fraction": 0.1,  # they are drawn anew
        "model_a.pretrained": str(given.start_a),
        "model_a.train": "head",
        "model_b.pretrained": str(given.start_b),
        "model_b.train": "head",
    }
    return parse_config([f"--{key}={value}" for key, value in values.items()], "grid")


def _table(given: argparse.Namespace, config: Config, seed: int) -> SplitTable:
    if given.study is not None:
        return load_split_table(given.study / LABELS / SPLITS_OF_SEED.format(seed))
    return draw_split_table(list_images(config.data), config.data, seed)


def _stores(config: Config, table: SplitTable, rt: Runtime) -> tuple[FeatureStore, FeatureStore]:
    reporter = Reporter(False, rt.progress)
    images = Images(table, open_pixels(config.data, table.listing, rt, reporter))
    models = first_models(config, rt.roles_here, table.class_names)
    classifiers = [
        build_classifier(role, model, resolve_role(config, role.value), rt)
        for role, model in models.items()
    ]
    context = RunContext(config, rt, RunDirectory(Path("unused")), reporter)
    return both_features(classifiers, images, context)


def _labels(
    given: argparse.Namespace,
    seed: int,
    strategy: str,
    table: SplitTable,
    stores: tuple[FeatureStore, FeatureStore],
    rt: Runtime,
) -> Tensor:
    """sample_ids of the labeled images."""
    if given.study is not None:
        points = json.loads((given.study / LABELS / f"seed-{seed}.json").read_text())[strategy]
        return torch.tensor(
            next(own["chosen"] for own in points if own["num_labels"] == given.num_labels)
        )
    pool = pool_of(table)
    if strategy == "random":
        order = torch.randperm(len(pool), generator=keyed_generator(seed, "labels at random"))
        return pool[order[: given.num_labels]]
    query, joint = Query(strategy, given.num_labels, seed), JointFeatures.of(stores, pool)
    return torch.tensor(choose(query, pool, pool[:0], joint, None, rt.control))


def report(found: dict[str, dict[str, list[float]]], strategy: str) -> None:
    """Print what was measured so far."""
    print(f"labels by {strategy}")
    base = found[strategy][BASE]
    for name, values in found[strategy].items():
        sd = f" ± {stdev(values):.1f}" if len(values) > 1 else ""
        print(f"  {name:44s} {mean(values):.1f}{sd}  {mean(values) - mean(base):+.1f}", flush=True)


if __name__ == "__main__":
    main()

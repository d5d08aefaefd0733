"""The path of an image, against what it could be: loops over tensors that lie ready in memory.

    python benchmarks/image_path.py [--data_root PATH/TO/caltech101]

One process, one thread, one core, 64 pixels. The product's own epoch and its own pass over U, the
pixel cache warm, cold and off, take turns with a bare loop of the same model, and with timm's
loader. Without a data set the images are generated: smooth noise, 128 to 180 pixels, JPEG.
"""

import argparse
import copy
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path

import numpy as np
import timm.data
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from targets import Target, print_all, ratios, seconds_in_turns
from torch import Tensor

from cotrain_dist.config import (
    Config,
    DataConfig,
    ModelConfig,
    PretrainConfig,
    TrainConfig,
    resolve_role,
)
from cotrain_dist.data.stream import PixelSource, pixels_of
from cotrain_dist.method.splits import Split
from cotrain_dist.models import build_optimizer
from cotrain_dist.training.context import Images, RunContext
from cotrain_dist.training.evaluate import pass_over
from cotrain_dist.training.pool import packed_votes
from cotrain_dist.training.setup import first_models, prepare, start_world
from cotrain_dist.training.steps import train_epoch
from cotrain_dist.training.student import Student, build_student
from cotrain_dist.types import Position, Role, TrainingSet

MODELS = ("mobilenetv3_small_100", "efficientnet_b0")
IMAGE_SIZE, BATCH_SIZE, CHUNK_SIZE = 64, 64, 128
NUM_TRAINED = {"mobilenetv3_small_100": 1024, "efficientnet_b0": 256}
NUM_LABELED = {"mobilenetv3_small_100": 2048, "efficientnet_b0": 1024}
TIMM_FLAGS = [
    {"num_workers": workers, "use_prefetcher": prefetcher, "persistent_workers": workers > 0}
    for workers in (0, 1)
    for prefetcher in (False, True)
]


TIMM = "timm's loader"
TRAIN_BOUND, COLD_BOUND = 0.95, 1.15


def generate_images(folder: Path, num_classes: int = 8, num_images: int = 6000) -> Path:
    """Class folders of JPEG files, where no data set is at hand."""
    generator = np.random.default_rng(0)
    for number in range(num_images):
        size = generator.integers(128, 181, 2)
        pixels = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
        target = folder / f"class_{number % num_classes}" / f"{number:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(2)).save(target, quality=85)
    return folder


@dataclass(frozen=True)
class Bench:
    """A model of the product with its images, and what the bare loops need."""

    student: Student
    images: Images
    ctx: RunContext
    learned: TrainingSet
    pool: Tensor
    data: DataConfig
    folder: Path

    def source(self, cache: str) -> PixelSource:
        """A fresh reader with a cache in this folder, or none (`off`)."""
        return pixels_of(replace(self.data, cache=cache), self.images.table.listing)

    def train(self, pixels: PixelSource) -> None:
        """An epoch of the product."""
        train_epoch(self.student, self.learned, "pretrain", Position(), pixels, self.ctx)

    def label(self, pixels: PixelSource) -> None:
        """The product's pass over U: votes of each image."""
        images = replace(self.images, pixels=pixels)
        pass_over(self.student, self.pool, packed_votes, "label", images, self.ctx)


@contextmanager
def bench_of(name: str, root: Path, folder: Path) -> Iterator[Bench]:
    """The product's own student and images, in a world of this process."""
    data = DataConfig(
        source="imagefolder",
        root=str(root),
        image_size=IMAGE_SIZE,
        test_fraction=0.1,
        labeled_fraction=0.2,
        cache=str(folder / "cache"),
    )
    config = Config(
        data=data,
        model_a=ModelConfig(name=name),
        model_b=ModelConfig(name=name),
        train=TrainConfig(batch_size=BATCH_SIZE),
        pretrain=PretrainConfig(num_epochs=1, warmup_epochs=0, learning_rate=1e-4),
        device="cpu",
        output_dir=str(folder / "run"),
    )
    with start_world(config) as rt:
        ctx, images = prepare(config, rt, resume=False, quiet=True)
        models = first_models(config, [Role.A], images.table.class_names)
        student = build_student(Role.A, models[Role.A], resolve_role(config, "a"), rt)
        labeled = images.table.labeled(Role.A, "own")
        rows = torch.arange(min(NUM_TRAINED[name], len(labeled)))
        learned = TrainingSet(
            labeled.sample_ids[rows], labeled.targets[rows], labeled.is_pseudo[rows]
        )
        pool = images.table.sample_ids(Split.U)[: NUM_LABELED[name]]
        yield Bench(student, images, ctx, learned, pool, data, folder)


def bare_epoch(bench: Bench) -> Callable[[], None]:
    """Steps over normalized tensors in memory: forward, backward, update, and nothing else."""
    model = copy.deepcopy(bench.student.model)
    optimizer = build_optimizer(model, bench.student.config.train, 1e-4)
    batches = bench.learned.sample_ids.split(BATCH_SIZE)
    pixels = list(bench.student.inputs(batches, bench.source("off")))
    targets = bench.learned.targets.split(BATCH_SIZE)

    def run() -> None:
        model.train()
        for images, labels in zip(pixels, targets, strict=True):
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def bare_pass(bench: Bench) -> Callable[[], None]:
    """Forward passes over normalized tensors in memory, the class of each image kept."""
    model = copy.deepcopy(bench.student.model).eval()
    chunks = list(bench.student.inputs(bench.pool.split(CHUNK_SIZE), bench.source("off")))

    def run() -> None:
        with torch.inference_mode():
            for images in chunks:
                model(images).argmax(dim=1)

    return run


class _Files(torch.utils.data.Dataset[tuple[Image.Image, int]]):
    """The files of U, as timm's own ImageDataset reads them."""

    def __init__(self, files: list[Path]) -> None:
        self.files, self.transform = files, None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        image = Image.open(self.files[index]).convert("RGB")
        return self.transform(image) if self.transform else image, 0  # type: ignore[misc]


def timm_pass(bench: Bench, flags: dict[str, object]) -> Callable[[], None]:
    """The same forward passes behind timm's loader."""
    model = copy.deepcopy(bench.student.model).eval()
    listing = bench.images.table.listing
    files = [Path(str(bench.data.root)) / listing.paths[i] for i in bench.pool.tolist()]
    own = bench.student.preprocessing.as_timm()
    loader = timm.data.create_loader(
        _Files(files),
        batch_size=CHUNK_SIZE,
        is_training=False,
        device=torch.device("cpu"),
        pin_memory=False,
        **{name: own[name] for name in ("input_size", "interpolation", "mean", "std", "crop_pct")},
        **flags,
    )

    def run() -> None:
        with torch.inference_mode():
            for images, _ in loader:
                model(images.contiguous(memory_format=torch.channels_last)).argmax(dim=1)

    return run


Seconds = dict[str, list[float]]
"""Of each way by name, one for each repeat."""


def train_in_turns(bench: Bench, warm: PixelSource) -> Seconds:
    """Epochs: bare, and the product's with a cache that is warm, cold, off."""
    fresh = count()

    def cold() -> None:
        place = bench.folder / f"cold-{next(fresh)}"
        bench.train(bench.source(str(place)))
        shutil.rmtree(place)

    return _warmed_up(
        {
            "bare epoch": bare_epoch(bench),
            "epoch, warm": lambda: bench.train(warm),
            "epoch, cold": cold,
            "epoch, off": lambda: bench.train(bench.source("off")),
        }
    )


def label_in_turns(bench: Bench, warm: PixelSource) -> Seconds:
    """Passes over U: bare, the product's, and behind timm's loader with its best flags."""
    loaders = {
        f"{TIMM}, " + ", ".join(f"{key} {value}" for key, value in flags.items()): timm_pass(
            bench, flags
        )
        for flags in TIMM_FLAGS
    }
    first = seconds_in_turns(loaders, num_repeats=2)
    best = min(first, key=lambda name: min(first[name]))
    return _warmed_up(
        {
            "bare pass": bare_pass(bench),
            "pass, warm": lambda: bench.label(warm),
            "pass, off": lambda: bench.label(bench.source("off")),
            best: loaders[best],
        }
    )


def _warmed_up(actions: dict[str, Callable[[], None]]) -> Seconds:
    for action in actions.values():  # the cache and the allocator
        action()
    return seconds_in_turns(actions)


def targets_of(name: str, root: Path, folder: Path) -> list[Target]:
    """The targets of one model."""
    with bench_of(name, root, folder) as bench:
        warm = bench.source(str(folder / "warm"))
        trained, labeled = train_in_turns(bench, warm), label_in_turns(bench, warm)
        warm.close()
        nums = dict.fromkeys(trained, len(bench.learned)) | dict.fromkeys(labeled, len(bench.pool))
    seconds = trained | labeled
    speeds = {
        f"{way}, images/s": [nums[way] / value for value in own] for way, own in seconds.items()
    }
    (timms,) = [own for way, own in labeled.items() if way.startswith(TIMM)]

    def target(what: str, over: list[float], under: list[float], bound: float) -> Target:
        return Target(
            name=f"{name}: {what}",
            values=ratios(over, under),
            bound=bound,
            is_least=bound != COLD_BOUND,
            measured=speeds if bound == TRAIN_BOUND else {},  # once for all of them
        )

    warm_pass = seconds["pass, warm"]
    return [
        target(
            "training, cache warm, over the bare loop",
            seconds["bare epoch"],
            seconds["epoch, warm"],
            TRAIN_BOUND,
        ),
        target(
            "an epoch that fills the cache, over one without",
            seconds["epoch, cold"],
            seconds["epoch, off"],
            COLD_BOUND,
        ),
        target(
            "pass over U, cache warm, over the bare loop", seconds["bare pass"], warm_pass, 0.90
        ),
        target("pass over U, cache warm, over timm's loader", timms, warm_pass, 2.0),
    ]


def targets(root: Path | None = None) -> list[Target]:
    """All of them, for both models."""
    torch.set_num_threads(1)
    found, allowed = [], os.sched_getaffinity(0)
    # One core as well as one thread: a loader's processes would take another one.
    os.sched_setaffinity(0, {min(allowed)})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if root is None:
            root = generate_images(folder / "images")
        for model in MODELS:
            found += targets_of(model, root, folder / model)
    os.sched_setaffinity(0, allowed)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data_root", type=Path)
    print_all(targets(parser.parse_args().data_root))


if __name__ == "__main__":
    main()

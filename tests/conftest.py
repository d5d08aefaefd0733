"""What tests share: the end of the warm rank processes, and a small folder of images."""

import atexit
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ranks import DEVICE, close_ranks, run_ranks, tiny_config, train_run

from cotrain_dist.config import (
    Config,
    CotrainConfig,
    DataConfig,
    ModelConfig,
    PoolConfig,
    PretrainConfig,
    SelectionConfig,
    TrainConfig,
)
from cotrain_dist.keys import seeded
from cotrain_dist.store.records import CotrainRecord, PretrainRecord, record_from_json

IMAGES_PER_CLASS = 20


def pytest_configure() -> None:
    # Before any process of ranks or commands is started: none fills the user's own cache.
    cache = tempfile.TemporaryDirectory(prefix="cotrain_dist-cache-")
    atexit.register(cache.cleanup)
    os.environ["XDG_CACHE_HOME"] = cache.name


@pytest.fixture(scope="session", autouse=True)
def _no_rank_outlives_the_session() -> Iterator[None]:
    yield
    close_ranks()


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Handwritten digits as an image folder: 10 classes of 20 images of 8 x 8 pixels."""
    from PIL import Image
    from sklearn.datasets import load_digits

    root = tmp_path_factory.mktemp("digits_folder")
    digits = load_digits()
    for digit in range(10):
        folder = root / f"digit_{digit}"
        folder.mkdir()
        images = digits.images[digits.target == digit][:IMAGES_PER_CLASS]
        for index, pixels in enumerate(images):
            Image.fromarray((pixels * (255 / 16)).astype("uint8")).save(folder / f"{index:02d}.png")
    return root


@pytest.fixture(scope="session")
def pretrained(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder of a run of Step 1 with two test_efficientnet.

    They disagree on U, and each is surer than the other on some of it.
    """
    tmp_path = tmp_path_factory.mktemp("pretrained")
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        model_a={"name": "test_efficientnet"},
        model_b={"name": "test_efficientnet"},
        pretrain={"num_epochs": 6},
        cotrain={"num_epochs": 0},
    )
    run_ranks(train_run, 1, tmp_path, config)
    return tmp_path / "run" / "models"


@pytest.fixture(scope="session")
def starts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Folders of two tiny backbones in timm's format, by role: random weights, but always the same.

    Read them; copy them to change them.
    """
    import timm

    folder = tmp_path_factory.mktemp("starts")
    found = {"a": folder / "test_resnet", "b": folder / "test_efficientnet"}
    for start in found.values():
        with seeded("start", start.name):
            model = timm.create_model(start.name, num_classes=7)
        timm.models.save_for_hf(model, start, safe_serialization=True)
    return {role: str(start) for role, start in found.items()}


@pytest.fixture(scope="session")
def start_options(starts: dict[str, str]) -> list[str]:
    """`starts` on the command line, with a size of images."""
    return [
        *("--model_a.pretrained", starts["a"], "--model_b.pretrained", starts["b"]),
        *("--data.image_size", "32", "--device", "cpu"),
    ]


@pytest.fixture(scope="session")
def digits_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV of 4 classes with 24 labeled images each, and 12 images of each without label.

    A file's first letter is its digit, whether the table says so or not.
    """
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits_table")
    (folder / "images").mkdir()
    digits, lines = load_digits(), ["path,label"]
    for digit in range(4):
        for index, pixels in enumerate(digits.images[digits.target == digit][:36]):
            path = f"images/{digit}_{index:02d}.png"
            Image.fromarray((pixels * (255 / 16)).astype("uint8")).save(folder / path)
            lines.append(f"{path},{digit if index < 24 else ''}")
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


def two_models_config(table: Path, output_dir: Path, **changes: Any) -> Config:
    """Both steps with V and a tracker; B sees larger images, A has an optimizer of its own."""
    settings: dict[str, Any] = {
        "data": DataConfig(
            source="csv",
            table=str(table),
            image_size=16,
            center_crop_fraction=1.0,
            augment="off",
            test_per_class=6,
            labeled_per_class=4,
            validation_fraction=0.15,
        ),
        "model_a": ModelConfig(
            name="test_resnet", optimizer="sgd", weight_decay=0.0, learning_rate_scale=10.0
        ),
        "model_b": ModelConfig(
            name="test_vit", image_size=32, augment="crop_flip", crop_min_area=0.8
        ),
        "train": TrainConfig(batch_size=10),
        "pretrain": PretrainConfig(
            num_epochs=20, warmup_epochs=0, learning_rate=3e-3, eval_every_epochs=8
        ),
        "cotrain": CotrainConfig(num_epochs=2, warmup_epochs=0, learning_rate=1e-3),
        "selection": SelectionConfig(threshold=0.7),
        "pool": PoolConfig(batch_size=10),
        "device": DEVICE,
        "tracking": "tensorboard",
        "output_dir": str(output_dir),
    }
    return Config(**(settings | changes))


def cotrain_quietly(config: Config) -> list[dict[str, dict[str, list[int]]]]:
    """A body: the whole training; returns R_A and R_B of each epoch, ids and labels."""
    from cotrain_dist import cotrain
    from cotrain_dist.training import cotrain as loop

    exchanges, close_epoch = [], loop.close_epoch

    def note(students: Any, state: Any, outcome: Any, images: Any, ctx: Any) -> None:
        if outcome.epoch:
            exchanges.append(
                {
                    name: {"ids": r.sample_ids.tolist(), "labels": r.labels.tolist()}
                    for name, r in (("a", outcome.exchanged.a), ("b", outcome.exchanged.b))
                }
            )
        close_epoch(students, state, outcome, images, ctx)

    loop.close_epoch = note
    try:
        cotrain(config, quiet=True)
    finally:
        loop.close_epoch = close_epoch
    return exchanges


@dataclass(frozen=True)
class FinishedRun:
    """A run of one process: where it lies, what it was told, what it exchanged and printed."""

    path: Path
    config: Config
    exchanges: list[dict[str, dict[str, list[int]]]]
    printed: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl as they stand there."""
        return [json.loads(line) for line in (self.path / "history.jsonl").read_text().splitlines()]

    @property
    def pretrain(self) -> list[PretrainRecord]:
        """The epochs of Step 1."""
        return [record for record in map(record_from_json, self.lines) if hasattr(record, "role")]

    @property
    def cotrain(self) -> list[CotrainRecord]:
        """The epochs of Step 2."""
        return [record for record in map(record_from_json, self.lines) if hasattr(record, "roles")]


@pytest.fixture(scope="session")
def finished_run(digits_table: Path, tmp_path_factory: pytest.TempPathFactory) -> FinishedRun:
    """`two_models_config` trained through the Python API. Read it; do not change it."""
    folder = tmp_path_factory.mktemp("finished")
    config = two_models_config(digits_table, folder / "run")
    (exchanges,) = run_ranks(cotrain_quietly, 1, folder, config)
    printed = (folder / "rank-0.out").read_text()
    return FinishedRun(folder / "run", config, exchanges, printed)


REQUIRED = ("tests/cluster/", "tests/distributed/")
"""Folders whose tests must all run where COTRAIN_REQUIRE_CLUSTER is set."""

ON_GPUS = ("tests/gpu/", "tests/distributed/test_role_groups.py", "tests/training/test_norm.py")
"""Tests that `make test-gpu` runs on a GPU; elsewhere their bodies run on the CPU."""

_outcomes: Counter[str] = Counter()
_num_skipped = 0


def pytest_sessionstart() -> None:
    if DEVICE == "cpu":
        return
    import torch

    if not torch.cuda.is_available():
        pytest.exit(f"COTRAIN_TEST_DEVICE={DEVICE}: this machine shows no GPU", returncode=1)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    global _num_skipped
    _num_skipped += report.skipped
    if report.nodeid.startswith(REQUIRED) and (report.when == "call" or report.skipped):
        _outcomes[report.outcome] += 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.startswith("tests/cluster/"):
            item.add_marker(pytest.mark.slow)
        if item.nodeid.startswith(ON_GPUS):
            item.add_marker(pytest.mark.gpu)


def a_skip_fails(device: str, num_skipped: int, num_skipped_of_clusters: int) -> bool:
    """Whether a session that skipped so many tests has failed: all that it is for must run."""
    if device != "cpu" and num_skipped:
        return True
    return bool(os.environ.get("COTRAIN_REQUIRE_CLUSTER") and num_skipped_of_clusters)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if a_skip_fails(DEVICE, _num_skipped, _outcomes["skipped"]):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _outcomes:
        counts = ", ".join(f"{number} {outcome}" for outcome, number in sorted(_outcomes.items()))
        terminalreporter.write_line(f"tests of clusters and ranks: {counts}")

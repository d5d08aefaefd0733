"""Trackers: TensorBoard holds the history's numbers at their epochs; a missing package is told."""

from io import BytesIO
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import FinishedRun
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cotrain_dist.config.text import flatten
from cotrain_dist.errors import UserError
from cotrain_dist.runtime import tracking
from cotrain_dist.runtime.tracking import check_tracker
from cotrain_dist.training.evaluate import Met
from cotrain_dist.training.pictures import (
    NUM_IMAGES,
    SIDE,
    Learned,
    caption,
    choose_learned,
    draw,
    show_learned,
)
from cotrain_dist.training.pool import PoolVotes, packed_votes
from cotrain_dist.types import PseudoLabeled, Role


@pytest.fixture(scope="module")
def events(finished_run: FinishedRun) -> EventAccumulator:
    """All that the run has sent."""
    # The settings lie in a folder below.
    (file,) = (finished_run.path / "cotrain_dist").glob("events.out.tfevents.*")
    events = EventAccumulator(str(file), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


@pytest.fixture(scope="module")
def tracked(events: EventAccumulator) -> dict[str, dict[int, float]]:
    """The values of each tag by step."""
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
    }


def test_accuracies_of_step_two(
    finished_run: FinishedRun, tracked: dict[str, dict[int, float]]
) -> None:
    records = [r for r in finished_run.lines if r["phase"] == "cotrain"]
    for group in ("test", "validation"):
        for name in ("a", "b", "ensemble"):
            for figure in ("top1", "mean_class_recall", "calibration_error"):
                expected = {r["epoch"]: pytest.approx(r[group][name][figure]) for r in records}
                assert list(expected) == [0, 1, 2]
                assert tracked[f"cotrain/{group}/{name}/{figure}"] == expected


def test_accuracies_of_step_one(
    finished_run: FinishedRun, tracked: dict[str, dict[int, float]]
) -> None:
    for name in ("a", "b"):
        records = [r for r in finished_run.lines if r.get("role") == name]
        losses = {r["epoch"]: pytest.approx(r["loss"]) for r in records}
        assert list(losses) == [*range(1, 21)]
        assert tracked[f"pretrain/{name}/loss"] == losses
        measured = {r["epoch"]: pytest.approx(r["test"]["top1"]) for r in records if r["test"]}
        assert list(measured) == [8, 16, 20]
        assert tracked[f"pretrain/{name}/test/top1"] == measured


def test_every_number_of_the_history_is_tracked(
    finished_run: FinishedRun, tracked: dict[str, dict[int, float]]
) -> None:
    num_numbers = 0
    for record in finished_run.lines:
        prefix = "/".join(filter(None, (record["phase"], record.get("role"))))
        numbers: dict[str, Any] = {
            key.replace(".", "/"): value
            for key, value in flatten(record).items()
            if isinstance(value, int | float) and key != "epoch"
        }
        for key, value in numbers.items():
            num_numbers += 1
            found = tracked[f"{prefix}/{key}"][record["epoch"]]
            assert found == pytest.approx(value, rel=1e-6)
    assert num_numbers > 100


def test_each_epoch_shows_some_images_that_each_model_learned(
    finished_run: FinishedRun, events: EventAccumulator
) -> None:
    num_shown = 0
    for name in ("a", "b"):
        expected = {}
        for epoch, (record, exchange) in enumerate(
            zip(finished_run.cotrain[1:], finished_run.exchanges, strict=True), start=1
        ):
            learned = exchange[record.roles[name].teacher or ""]["ids"]
            step = max(1, -(-len(learned) // NUM_IMAGES))
            expected[epoch] = len(learned[::step])
        shown = events.Images(f"cotrain/learned_by_{name}")
        assert [one.step for one in shown] == [epoch for epoch, num in expected.items() if num]
        for one in shown:
            sheet = Image.open(BytesIO(one.encoded_image_string))
            num_shown += expected[one.step]
            assert sheet.size[0] == expected[one.step] * SIDE  # one row
            assert len(sheet.getcolors(1 << 16) or []) > 2
    assert num_shown > 4


def _votes(start: int, num: int) -> PoolVotes:
    """A calls all of them 1, and is the surer the further they stand; B calls them 0."""
    zeros, rows = torch.zeros(num), torch.arange(start, start + num) + 1.0
    a = packed_votes(torch.stack([zeros, rows], dim=1))
    b = packed_votes(torch.stack([zeros + 1.0, zeros], dim=1))
    return PoolVotes((Met(start, a, b),), torch.zeros(1, 1, dtype=torch.int16))


@pytest.mark.parametrize(
    ("num", "expected"), [(8, [30, 40, 50]), (3, [30, 40, 50]), (2, [30, 50]), (1, [30])]
)
def test_images_are_chosen_evenly_from_the_part_whose_votes_are_here(
    num: int, expected: list[int]
) -> None:
    pool_ids = torch.arange(0, 100, 10)
    selected = PseudoLabeled(torch.tensor([0, 30, 40, 50, 90]), torch.tensor([1, 1, 0, 1, 1]))
    chosen = choose_learned(selected, _votes(2, 5), pool_ids, num)
    assert [one.sample_id for one in chosen] == expected
    (label_a, sure_a), (label_b, sure_b) = chosen[0].said
    assert (label_a, label_b) == (1, 0)
    assert sure_a == pytest.approx(torch.tensor(4.0).sigmoid().item(), abs=1e-3)
    assert sure_b == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=1e-3)
    assert choose_learned(PseudoLabeled.empty(), _votes(2, 5), pool_ids, num) == []


def test_lines_below_an_image_say_what_it_is_learned_as_and_fit() -> None:
    names = ["cat", "a very long name of a class", "\u72ac\n"]
    lines = caption(Learned(7, 0, ((1, 0.912), (2, 0.4))), names)
    assert lines == ("learned: cat", "A: a very long name.. 91 %", "B: ?\\n 40 %")
    picture = draw(np.zeros((8, 8, 3), dtype=np.uint8), lines)
    assert picture.shape[1:] == (SIDE, 3)
    assert not picture[:SIDE].any()
    assert picture[SIDE:].any(axis=1).all()  # white
    assert (picture[SIDE:] < 128).any()  # and text


def test_other_trackers_get_lists_and_some_get_none() -> None:
    sent: list[Any] = []

    def log_images(values: Any, step: int) -> None:
        sent.append((values, step))

    pictures = np.zeros((2, 5, 4, 3), dtype=np.uint8)
    shows, shows_none = SimpleNamespace(name="wandb", log_images=log_images), object()
    for trackers in ([], [shows_none]):
        accelerator: Any = SimpleNamespace(trackers=trackers)
        assert not tracking.takes_images(accelerator)
        tracking.track_images(accelerator, "tag", pictures, 3)
    accelerator = SimpleNamespace(trackers=[shows_none, shows])
    assert tracking.takes_images(accelerator)
    tracking.track_images(accelerator, "tag", pictures, 3)
    ((values, step),) = sent
    assert step == 3
    assert [image.shape for image in values["tag"]] == [(5, 4, 3)] * 2


def test_an_image_that_is_gone_ends_no_training() -> None:
    class Gone:
        def batches(self, *_: object) -> Any:
            raise UserError("data.root", "x.png", "cannot be read", "put it back")

    warnings: list[str] = []
    table = SimpleNamespace(class_names=["0", "1"], sample_ids=lambda split: torch.arange(10))
    images: Any = SimpleNamespace(table=table, pixels=Gone())
    shows = SimpleNamespace(log_images=None)
    runtime = SimpleNamespace(accelerator=SimpleNamespace(trackers=[shows]))
    ctx: Any = SimpleNamespace(runtime=runtime, reporter=SimpleNamespace(warn=warnings.append))
    taught = {Role.A: PseudoLabeled(torch.tensor([3]), torch.tensor([1]))}
    view: Any = None
    show_learned(1, taught, _votes(2, 5), view, images, ctx)
    assert warnings == [
        "no pictures for the tracker: data.root: x.png: cannot be read; put it back."
    ]


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow", "trackio"])
def test_a_missing_package_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda package: None)
    rule = rf"tracking: {name}: its package is not installed; pip install {name}"
    with pytest.raises(UserError, match=rule):
        check_tracker(name)


def test_nothing_is_missing_without_a_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda package: None)
    check_tracker("none")
    monkeypatch.undo()
    check_tracker("tensorboard")

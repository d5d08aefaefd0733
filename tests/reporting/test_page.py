"""The page of runs: what it says, that it is whole in itself, and that nobody's text acts in it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from cotrain_dist.inference.evaluate import Figures
from cotrain_dist.inference.seen import Seen, Tile
from cotrain_dist.method.gallery import BOTH_WRONG, UNSURE
from cotrain_dist.method.metrics import Accuracy, Confusion, class_recall, measure_accuracy
from cotrain_dist.reporting.page import RunStory, page_of, sentence_of
from cotrain_dist.store.records import CotrainRecord, CrossValidation, Estimate, RoleRecord

HOSTILE = "</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"


def _record(epoch: int, top1: float) -> CotrainRecord:
    figures = {
        who: Accuracy(top1 + more, 1.0, top1, 0.1)
        for who, more in (("a", 0.0), ("b", 0.01), ("ensemble", 0.02))
    }
    tenths = {"num_images": [6] * 10, "num_right": [3] * 10}
    role = RoleRecord(
        teacher="b",
        num_selected=7,
        selected_accuracy=0.5,
        selected_class_histogram=[7, 0],
        selected_right_histogram=[3, 0],
        fit=None,
    )
    return CotrainRecord(
        epoch=epoch,
        exchange="alternate",
        agreement_rate=0.75 if epoch else None,
        num_equal_codes=0,
        never_selected_fraction=0.5,
        pool=dict.fromkeys(("agree_a", "agree_b", "differ_a", "differ_b"), tenths),
        roles={"a": role, "b": replace(role, teacher="a", num_selected=5)},
        test=figures,
        validation=None,
        seconds=1.0,
        seconds_by_rank=[{"train": 0.75, "pseudo_label": 0.25}],
        peak_memory_bytes_by_rank=[1],
    )


def _story(name: str = "runs/1", **changes: object) -> RunStory:
    values = {
        "name": name,
        "status": "finished",
        "recipe": "paper",
        "num_labels": 20,
        "num_pool": 100,
        "num_measured": {"T": 100, "V": 0},
        "seconds": 3661.0,
        "records": [_record(0, 0.5), _record(1, 0.6), _record(2, 0.7)],
        "best": {"role": "b", "epoch": 1, "chosen_on": "T"},
    }
    return RunStory(**(values | changes))  # type: ignore[arg-type]


def _seen(name: str) -> Seen:
    targets, labels = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1])
    probs = torch.nn.functional.one_hot(labels, 2).float()
    figures = Figures(
        accuracy={"ensemble": measure_accuracy(probs, targets)},
        recall={"ensemble": class_recall(labels, targets, 2)},
        labels={"ensemble": labels},
        targets=targets,
    )
    tiles = [
        Tile(kind, name, "plain", name, "plain", 0.75, 0.25, b"jpeg")
        for kind in (UNSURE, BOTH_WRONG)
    ]
    return Seen((name, "plain"), "T", figures, figures, [Confusion(0, 1, 1)], tiles)


def _specs(page: str) -> list[dict[str, object]]:
    found = re.search(r"^const specs = (.*);$", page, re.MULTILINE)
    assert found is not None
    specs: list[dict[str, object]] = json.loads(found[1])
    return specs


def test_the_sentence_says_what_the_user_got() -> None:
    assert sentence_of(_story()) == (
        "runs/1: the model to ship, models/best (B), is right for 61.0 % (95 % interval 51.2 to "
        "70.0) of the 100 images of T; with the 20 labels alone B is right for 51.0 % (+10.0 "
        "points). It was chosen on T, which flatters it."
    )
    of_step_one = {"role": "b", "epoch": 0, "chosen_on": None}
    assert sentence_of(_story(best=of_step_one)).endswith(
        "B is right for 51.0 % (+0.0 points). It is the model of Step 1: none of Step 2 has taken "
        "its place."
    )
    assert sentence_of(_story(status="stopped", records=[])) == (
        "runs/1: stopped; nothing was measured so far."
    )
    without = [_record(0, 0.5)]
    assert "nothing was measured" in sentence_of(_story(records=without))  # best is of epoch 1


def test_without_t_and_v_the_sentence_says_what_cross_validation_found() -> None:
    found = CrossValidation(
        num_images=20,
        num_alone=1,
        of={
            "a": Estimate(top1=0.5, low=0.3, high=0.7),
            "ensemble": Estimate(top1=0.6, low=0.4, high=0.8),
        },
    )
    records = [replace(_record(0, 0.5), test=None)]
    best = {"role": "a", "epoch": 0, "chosen_on": None}
    story = _story(records=records, estimate=found, best=best)
    assert sentence_of(story) == (
        "runs/1: there is no T and no V. By cross-validation on the 20 labels, models that learned "
        "labels alone are right for: A 50.0 % (95 % interval 30.0 to 70.0), A and B together 60.0 "
        "% (95 % interval 40.0 to 80.0). Where labels were chosen, and not drawn at random, these "
        "figures are no estimate for all images."
    )
    page = page_of([story], None)
    assert "<td>L, by cross-validation: 50.0 % (95 % interval 30.0 to 70.0)</td>" in page


def test_where_nobody_teaches_nothing_is_learned() -> None:
    record = _record(1, 0.5)
    roles = {name: replace(own, teacher=None) for name, own in record.roles.items()}
    (_, funnel, *_) = _specs(page_of([_story(records=[replace(record, roles=roles)])], None))
    learned = [row for row in funnel["data"]["values"] if "learned" in row["part"]]  # type: ignore[index]
    assert [(row["images"], row["labeled by"]) for row in learned] == [(0, "nobody")] * 2


def test_charts_hold_the_figures_of_the_history() -> None:
    page = page_of([_story()], _seen("cat"))
    accuracy, funnel, calibration, time, recall = _specs(page)
    rows = accuracy["data"]["values"]  # type: ignore[index]
    assert [row["top1"] for row in rows if row["who"] == "B"] == pytest.approx([51, 61, 71])
    parts = funnel["data"]["values"]  # type: ignore[index]
    assert [(row["part"], row["images"]) for row in parts if row["epoch"] == 2] == [
        ("A and B agree", 75),
        ("A and B differ", 25),
        ("learned by A", 5),
        ("learned by B", 7),
    ]
    assert [row["labeled by"] for row in parts if row["epoch"] == 2] == ["", "", "B", "A"]
    bins = calibration["layer"][1]["data"]["values"]  # type: ignore[index]
    assert bins[0] == {"who": "A", "sure": 5, "images": 12, "right": 50.0}
    spent = {row["phase"]: row["seconds"] for row in time["data"]["values"]}  # type: ignore[index]
    assert spent == {"train": 2.25, "pseudo label": 0.75}
    shares = [(row["name"], row["when"], row["recall"]) for row in recall["data"]["values"]]  # type: ignore[index]
    # For who cannot see a chart the same figures stand in a table.
    assert page.count("<summary>The figures as a table</summary>") == 5
    assert "<td>2</td><td>learned by A</td><td>5</td><td>50.0 %</td><td>B</td>" in page
    assert shares[:2] == [("cat", "labels alone", 50.0), ("cat", "now", 50.0)]


def test_names_do_nothing_in_the_page() -> None:
    page = page_of([_story(HOSTILE)], _seen(HOSTILE))
    assert "<img src=x" not in page
    assert "onerror=alert(1)&gt;{{ 7 * 7 }}" in page.split("<script>")[0]  # shown as it is
    assert page.count("</script>") == 2


def test_the_page_needs_nothing_else_and_is_small() -> None:
    page = page_of([_story("one"), _story("two")], None)
    assert len(page) < 5_000_000
    assert "default-src 'none'" in page
    assert "unsafe-eval" not in page.split("<script>")[0]
    head = page.split("<script>")[0]
    assert "http" not in head.replace("http-equiv", "")
    assert "src=" not in head  # no images without `seen`
    assert {row["run"] for row in _specs(page)[0]["data"]["values"]} == {"one", "two"}  # type: ignore[index]


def test_the_templates_are_in_the_package() -> None:
    import cotrain_dist.reporting

    folder = Path(cotrain_dist.reporting.__file__).parent / "templates"
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["annotate.html.jinja", "gallery.html.jinja", "page.html.jinja"]

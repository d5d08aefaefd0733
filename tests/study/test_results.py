"""From histories to outcomes, tables and verdicts, by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from histories import accuracy, cotrain_record, fit, pretrain_record

from cotrain_dist.config import Config, DataConfig, ModelConfig
from cotrain_dist.data.sources.listing import listing_of
from cotrain_dist.data.splits import SplitTable
from cotrain_dist.method.splits import Split
from cotrain_dist.store.records import CotrainRecord
from cotrain_dist.study import reasons, tables
from cotrain_dist.study.published import paper_tables
from cotrain_dist.study.report import write_report
from cotrain_dist.study.results import Outcome, common_seeds, gain, gap, outcome_of
from cotrain_dist.study.verdict import verdicts
from cotrain_dist.study.worth import gaps_as_dict, worth

NO_IMAGES = [0] * 10


def record(epoch: int, a: float, b: float, ensemble: float, **more: Any) -> CotrainRecord:
    test = {"a": accuracy(a), "b": accuracy(b), "ensemble": accuracy(ensemble)}
    agreed = {
        **{"num_images": [*NO_IMAGES[1:], 4], "num_right": [*NO_IMAGES[1:], 3]},
        **{"num_images_by_class": [3, 1], "num_right_by_class": [2, 1]},
    }
    differing = {
        **{"num_images": [0, 4, *NO_IMAGES[2:]], "num_right": [0, 1, *NO_IMAGES[2:]]},
        **{"num_images_by_class": [4, 0], "num_right_by_class": [1, 0]},
    }
    if not epoch:
        return cotrain_record(epoch, test, **more)
    pool = {
        f"{name}_{role}": counts
        for name, counts in (("agree", agreed), ("differ", differing))
        for role in "ab"
    }
    role = {
        "num_selected": 3,
        "selected_accuracy": 1 / 3,
        "selected_class_histogram": [2, 1],
        "selected_right_histogram": [1, 0],
    }
    role |= more.pop("role", {})
    return cotrain_record(epoch, test, role, **({"agreement_rate": 0.5, "pool": pool} | more))


def outcome(first: float, last: float, ensemble: float = 0.6) -> Outcome:
    """A and B are one point apart around the mean."""
    return outcome_of(
        [
            record(0, first - 0.005, first + 0.005, ensemble),
            record(1, last - 0.005, last + 0.005, ensemble),
        ]
    )


def test_an_outcome_by_hand() -> None:
    found = outcome_of(
        [
            pretrain_record("a", 1, fit=fit(7)),
            pretrain_record("b", 1, fit=fit(5)),
            record(0, 0.4, 0.5, 0.6),
            record(1, 0.7, 0.4, 0.6),
            record(2, 0.6, 0.6, 0.8),
        ]
    )
    assert found.curve["a"] == pytest.approx([40, 70, 60])
    assert found.last == pytest.approx({"a": 60, "b": 60, "ensemble": 80, "models": 60})
    assert found.first["models"] == pytest.approx(45)
    assert found.best == pytest.approx({"a": 70, "b": 60, "ensemble": 80})
    assert (found.chosen_on, found.best_epoch["a"], found.best_epoch["b"]) == ("T", 1, 2)
    assert found.num_steps_before == {"a": 7, "b": 5}
    assert (found.num_steps, found.seconds) == ({"a": 20, "b": 20}, 18.0)
    assert found.num_samples_before == {"a": 70, "b": 50}
    assert found.num_samples == {"a": 200, "b": 200}
    assert found.seconds_before == 2.0, "one process trains one model after the other"
    assert found.saved is None
    assert found.recall["a"] == pytest.approx(30)
    assert found.right_by_class["a"] == [[4, 2], [2, 0]]


def test_models_on_ranks_of_their_own_train_at_one_time() -> None:
    history = [
        pretrain_record("a", 1, seconds={"train": 2.0, "evaluate": 1.0}),
        pretrain_record("a", 2, seconds={"train": 2.0}),
        pretrain_record("b", 1, seconds={"train": 4.0}),
        record(0, 0.4, 0.5, 0.6, seconds_by_rank=[{}, {}]),
        record(1, 0.4, 0.5, 0.6, seconds_by_rank=[{}, {}]),
    ]
    assert outcome_of(history).seconds_before == 5.0


def test_models_best_is_the_one_that_says_so() -> None:
    history = [record(0, 0.4, 0.5, 0.6), record(1, 0.7, 0.8, 0.9)]
    assert outcome_of(history, notes={"role": "b", "epoch": 0}).saved == pytest.approx(50)
    assert outcome_of(history, notes={"role": "a", "epoch": 1}).saved == pytest.approx(70)


def ended(ensemble: float, saved: float | None = None) -> Outcome:
    """In %: where an arm has ended."""
    return replace(outcome(0.3, 0.5, ensemble / 100), saved=saved)


def test_the_gap_closed_is_that_of_the_ensembles() -> None:
    outcomes = {
        "vote": {0: ended(60, 58), 1: ended(70, 67), 2: ended(65, 63)},
        "ceiling": {0: ended(80, 79), 1: ended(90, 88), 2: ended(86, 85)},
        "paper": {0: ended(70, 62), 1: ended(80, 72), 2: ended(75, 68), 3: ended(10, 10)},
        "own-own": {0: ended(70, None), 1: ended(80, 72), 2: ended(75, 68)},
        "peer-own": {3: ended(70, 70)},
    }
    share, interval = gap(outcomes, "paper", "ensemble") or (0.0, None)
    assert share == pytest.approx(30 / 61)
    assert interval is not None
    assert interval.mean == pytest.approx(share)
    assert interval.low <= share <= interval.high
    share, _ = gap(outcomes, "paper", "best") or (0.0, None)
    assert share == pytest.approx((62 + 72 + 68 - 195) / 61)
    share, _ = gap(outcomes, "vote", "best") or (0.0, None)
    assert share == pytest.approx((58 + 67 + 63 - 195) / 61), "one model instead of two"
    assert (gap(outcomes, "ceiling", "ensemble") or (0.0, None))[0] == pytest.approx(1.0)
    assert gap(outcomes, "own-own", "best") is None, "one of its models is not known"
    assert gap(outcomes, "peer-own", "ensemble") is None, "no common seed"


def test_there_is_no_gap_where_the_ceiling_is_not_above() -> None:
    outcomes = {name: {0: ended(60, 60), 1: ended(62, 62)} for name in ("vote", "ceiling")}
    assert gap(outcomes, "vote", "ensemble") is None


def test_what_an_arm_costs_and_is_worth() -> None:
    def part(ensemble: float, saved: float, **counts: Any) -> Outcome:
        plain = {"num_samples_before": {"a": 0, "b": 0}, "seconds_before": 0.0}
        plain |= {"num_samples": {"a": 300, "b": 500}, "seconds": 60.0}
        return replace(ended(ensemble, saved), **(plain | counts))

    of_start = {"num_samples_before": {"a": 100, "b": 200}, "seconds_before": 90.0}
    outcomes = {
        "start": {0: part(50, 50, **of_start), 1: part(50, 50, seconds_before=9e9)},
        "vote": {0: part(60, 58, **of_start)},
        "paper": {0: part(70, 65)},
        "ceiling": {0: part(80, 79, **of_start)},
    }
    grid = worth(outcomes, "x")
    rows = {row[0]: row[1:] for row in grid.rows}
    assert list(rows) == ["paper", "vote", "ceiling"]
    assert rows["paper"][:3] == ["1", "70.0", "65.0"]
    # Step 1 of `paper` is that of `start`, with the same seed.
    assert rows["paper"][3:6] == rows["vote"][3:6] == ["400", "700", "2.5"]
    assert rows["paper"][6:] == ["50 (one seed)", "25 (one seed)"]
    assert rows["vote"][6:] == ["0 (one seed)", "-10 (one seed)"]
    assert gaps_as_dict(outcomes)["paper"] == {
        "ensemble": {"mean": pytest.approx(0.5), "low": None, "high": None},
        "best": {"mean": pytest.approx(0.25), "low": None, "high": None},
    }
    del outcomes["start"]
    assert worth(outcomes, "x").rows[0][4:7] == ["?", "?", "?"]
    outcomes["vote"][0] = replace(outcomes["vote"][0], saved=None)
    assert worth(outcomes, "x").rows[1][3] == "-"
    assert gaps_as_dict(outcomes)["vote"]["best"] is None


def test_an_interval_where_the_gap_is_sure_and_a_word_where_it_is_not() -> None:
    seeds = (0, 1, 2)
    sure = {
        "vote": {s: ended(60 + s, 60) for s in seeds},
        "ceiling": {s: ended(80 + s, 80) for s in seeds},
        "paper": {s: ended(70 + s, 65) for s in seeds},
    }
    assert worth(sure, "x").rows[0][7] == "50 (50 to 50)"
    tops = {0: ended(90), 1: ended(50), 2: ended(65)}
    assert "(the gap may be none)" in worth(sure | {"ceiling": tops}, "x").rows[0][7]


def test_the_best_epoch_is_chosen_on_v_where_there_is_one() -> None:
    def with_v(top1: float) -> dict[str, Any]:
        return {"validation": {name: accuracy(top1) for name in ("a", "b", "ensemble")}}

    found = outcome_of(
        [record(0, 0.4, 0.4, 0.4, **with_v(0.9)), record(1, 0.5, 0.5, 0.5, **with_v(0.2))]
    )
    assert found.chosen_on == "V"
    assert found.best["a"] == pytest.approx(40)


def test_gains_are_paired_by_seed() -> None:
    outcomes = {
        "x": {0: outcome(0.3, 0.50), 1: outcome(0.3, 0.60), 7: outcome(0.3, 0.9)},
        "y": {0: outcome(0.3, 0.40), 1: outcome(0.3, 0.50), 2: outcome(0.3, 0.1)},
    }
    assert common_seeds(outcomes, "x", "y") == [0, 1]
    interval = gain(outcomes, "x", "y")
    assert interval is not None
    assert interval.mean == pytest.approx(10)
    assert interval.num_seeds == 2
    assert gain(outcomes, "x", "absent") is None


def test_verdicts_follow_the_rule() -> None:
    seeds = (0, 1, 2)
    outcomes = {
        "none-own": {s: outcome(0.50, 0.50 + 0.001 * s) for s in seeds},
        "paper": {s: outcome(0.50, 0.65 + 0.001 * s) for s in seeds},
        "alternate-shared": {s: outcome(0.50, 0.52 + 0.001 * s, 0.55) for s in seeds},
        "peer-own": {0: outcome(0.50, 0.60)},
    }
    found = {verdict.claim: verdict for verdict in verdicts(outcomes)}
    assert len(found) == len(verdicts(outcomes))

    def verdict_on(start: str) -> str:
        (verdict,) = [v.verdict for claim, v in found.items() if claim.startswith(start)]
        return verdict

    assert verdict_on("without exchange accuracy stays") == "holds"
    assert verdict_on("Condition 2 (own R in even epochs, labels own)") == "holds"
    two_shared = verdict_on("Condition 2 (own R in even epochs, labels shared)")
    assert two_shared == "holds in direction, but smaller"
    assert verdict_on("Condition 1 (the peer's R, labels own)") == "one seed, not decided"
    assert verdict_on("Condition 1 (its own R, labels own)") == "not run"
    assert verdict_on("a co-trained model beats the two") == "does not hold"


def test_the_paper_is_quoted_right() -> None:
    papers = paper_tables()
    assert list(papers) == ["2", "3", "4"]
    for paper in papers.values():
        assert len(paper.epochs) == len(paper.a) == len(paper.b) == 10
    assert papers["2"].a[0] == 48.71
    assert papers["3"].b[-1] == 61.95
    assert papers["4"].last == pytest.approx((65.82 + 66.19) / 2)


def test_tables_show_what_was_not_run() -> None:
    outcomes = {"none-own": {0: outcome(0.5, 0.5), 1: outcome(0.5, 0.52)}}
    rows = {row[0]: row for row in tables.summary(outcomes, "x at 8 pixels").rows}
    assert rows["none-own"][3:6] == ["2", "50.5 ± 1.4", "51.5 ± 1.4"]
    assert rows["ceiling"][3] == "not run"
    assert len({len(row) for row in rows.values()}) == 1
    shape = tables.paper_shape("2", outcomes, "x at 8 pixels")
    assert shape.rows[0][:3] == ["1", "48.71", "49.95"]
    assert "T chose the epoch" in tables.best_epochs(outcomes, "x at 8 pixels").title


def test_the_closest_reading_comes_first() -> None:
    outcomes = {
        "none-own": {0: outcome(0.5, 0.5)},
        "peer-own": {0: outcome(0.5, 0.52), 1: outcome(0.5, 0.9)},
        "labels-only": {0: outcome(0.5, 0.552)},
        "own-own": {0: outcome(0.5, 0.76)},
        "paper": {0: outcome(0.5, 0.6)},
        "vote": {0: outcome(0.5, 0.7)},
    }
    rows = tables.readings(outcomes, "x").rows
    assert [row[1] for row in rows] == ["labels-only", "peer-own", "own-own", "paper"]
    assert rows[0] == ["Condition 1, third reading", "labels-only", "+10.4", "+5.2", "1", "50%"]
    assert rows[2][3:] == ["+26.0", "1", "250%"], "farther off than 19 %"
    assert rows[3][2:] == ["+14.3", "+10.0", "1", "70%"]


def test_a_gain_over_fewer_seeds_than_the_row_has_says_so() -> None:
    outcomes = {
        "none-own": {0: outcome(0.5, 0.5)},
        "labels-only": {0: outcome(0.5, 0.55), 1: outcome(0.5, 0.6)},
    }
    rows = {row[0]: row for row in tables.summary(outcomes, "x").rows}
    assert rows["labels-only"][3] == "2"
    assert rows["labels-only"][8] == "+5.0, of 1 seed(s)"


def test_the_last_epoch_is_shown_where_the_paper_shows_every_second_one() -> None:
    records = [record(epoch, 0.5, 0.5, 0.5) for epoch in range(4)]
    shape = tables.paper_shape("4", {"paper": {0: outcome_of(records)}}, "x")
    assert [row[0] for row in shape.rows if row[3]] == ["2", "3"]


def test_a_report_of_part_of_the_arms(tmp_path: Path) -> None:
    outcomes = {
        "start": {0: outcome(0.5, 0.5)},
        "none-own": {0: outcome(0.5, 0.5)},
        "paper": {0: outcome(0.5, 0.6)},
    }
    listing = listing_of("digits", ["0", "1"], ["cat", "dog"], [(1, "x"), (1, "y")])
    table = SplitTable(listing, torch.full((2,), Split.U))
    model = ModelConfig(name="test_resnet")
    base = Config(data=DataConfig(image_size=48), model_a=model, model_b=model)
    write_report(outcomes, base, table, tmp_path)
    text = (tmp_path / "report.md").read_text()
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert titles[0] == "# digits at 48 pixels (2 classes), test_resnet"
    assert all("48 pixels" in title for title in titles)
    for name in ("figure-2", "figure-4", "exchange", "confidence"):
        for ending in (".png", ".svg"):
            assert (tmp_path / "figures" / f"{name}{ending}").stat().st_size > 1000
    assert not (tmp_path / "figures" / "figure-3.png").exists()
    assert "| 1 | 3 | 33% | 50% | 75% | 25% |" in text  # by epoch
    assert "| 0.9 to 1.0 | 4 | 75% | 0 | - |" in text  # by confidence
    assert "| 0.1 to 0.2 | 0 | - | 4 | 25% |" in text
    assert "| cat | 66.7% | 50% | 67% | 25% |" in text  # by class
    assert "| dog | 33.3% | 0% | 100% | - |" in text
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["outcomes"]["paper"]["0"]["curve"]["a"] == pytest.approx([49.5, 59.5])
    assert {v["verdict"] for v in results["verdicts"]} == {"not run", "one seed, not decided"}


def test_sources_of_the_parts_are_told_apart(tmp_path: Path) -> None:
    outcomes = {
        "start": {0: replace(outcome(0.5, 0.5), sources=["abc"])},
        "none-own": {0: replace(outcome(0.5, 0.5), sources=["abc", "def"])},
        "labels-only": {0: replace(outcome(0.5, 0.5), sources=["abc"])},
    }
    listing = listing_of("digits", ["0", "1"], ["cat", "dog"], [(1, "x"), (1, "y")])
    table = SplitTable(listing, torch.full((2,), Split.U))
    write_report(outcomes, Config(data=DataConfig(image_size=48)), table, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "\n- abc: start/0 labels-only/0\n- abc, def: none-own/0\n" in text


def test_nothing_is_said_to_be_right_where_true_labels_are_unknown() -> None:
    role = {"selected_accuracy": None, "selected_right_histogram": [0, 0]}
    unknown = {"role": role, "pool": None}
    found = outcome_of([record(0, 0.5, 0.5, 0.5), record(1, 0.5, 0.5, 0.5, **unknown)])
    outcomes = {"paper": {0: found}}
    by_epoch = reasons.right_by_epoch("paper", outcomes, "x")
    assert by_epoch.rows == [["1", "3", "-", "50%", "-", "-"]]
    by_class = reasons.right_by_class("paper", outcomes, ["cat", "dog"], "x")
    assert by_class.rows == [["cat", "66.7%", "-", "-", "-"], ["dog", "33.3%", "-", "-", "-"]]

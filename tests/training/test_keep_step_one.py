"""`cotrain.keep_step_one`: Step 1 is models/best unless V shows that Step 2 loses nothing."""

import json
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from histories import accuracy, cotrain_record
from ranks import build_students, history_of, run_ranks, tiny_config, train_run

from cotrain_dist.config import Config
from cotrain_dist.store.records import CrossValidation, Estimate
from cotrain_dist.training.promise import settle_on_validation, settle_without_validation


def record(epoch: int, a: float, b: float, on_test: float = 0.0) -> Any:
    """Of an epoch with this accuracy on V; T says something else."""
    validation = {"a": accuracy(a), "b": accuracy(b), "ensemble": accuracy(0.0)}
    test = {name: accuracy(on_test) for name in validation}
    return cotrain_record(epoch, test, validation=validation)


def mask(num_right: int) -> torch.Tensor:
    """The first ones of ten images."""
    return torch.arange(10) < num_right


def test_v_decides_by_hand() -> None:
    first, last = record(0, 0.4, 0.5, on_test=1.0), record(3, 0.9, 0.9)
    passed = settle_on_validation(first, last, mask(5), mask(9))
    assert (passed.best.role, passed.best.epoch, passed.best.top1) == ("a", 3, 0.9)
    assert not passed.is_of_step_one
    assert passed.line == (
        "models/best is A of epoch 3: V shows that it loses nothing, of 10 images of V it gains 4 "
        "and loses 0 (p 0.062)"
    )
    failed = settle_on_validation(first, last, mask(5), mask(8))
    assert (failed.best.role, failed.best.epoch, failed.best.top1) == ("b", 0, 0.5)
    assert failed.is_of_step_one
    assert failed.line == (
        "models/best is B of Step 1: V does not show that A of epoch 3 loses nothing, of 10 images "
        "of V it gains 3 and loses 0 (p 0.12)"
    )
    assert failed.to_json() == {
        **{"role": "b", "epoch": 0, "top1": 0.5, "chosen_on": "V", "why": failed.why},
        **{"num_gained": 3, "num_lost": 0, "p_value": 0.125, "confidence": 0.9},
    }
    without = settle_on_validation(first, record(0, 0.4, 0.5), mask(5), mask(5))
    assert without.line == "models/best is B of Step 1: Step 2 has no epochs"
    assert without.test is None


def test_without_v_step_one_stays_and_l_says_which() -> None:
    test = {name: accuracy(own) for name, own in (("a", 0.9), ("b", 0.1), ("ensemble", 0.5))}
    first = cotrain_record(0, test, {"own_accuracy": 0.5})
    settled = settle_without_validation(first, None)
    assert (settled.best.role, settled.best.epoch, settled.chosen_on) == ("a", 0, "own labels")
    assert "data.validation_fraction: 0.1 draws one" in settled.line
    of = {"a": Estimate(top1=0.6, low=0, high=1), "b": Estimate(top1=0.7, low=0, high=1)}
    found = CrossValidation(num_images=9, num_alone=0, of=of)
    settled = settle_without_validation(first, found)
    assert (settled.best.role, settled.chosen_on) == ("b", "cross-validation on L"), "T says a"


def right_bits(config: Config) -> dict[str, list[bool]]:
    """A body: what each model calls right of V, with its first weights."""
    from cotrain_dist.method.splits import Split
    from cotrain_dist.training.evaluate import count_split
    from cotrain_dist.training.promise import right_on_validation
    from cotrain_dist.types import ROLES

    students, images, ctx = build_students(config)
    bits = {role.value: right_on_validation(students, role, images, ctx).tolist() for role in ROLES}
    counts = count_split(students, images.table.sample_ids(Split.V), images, ctx)
    for name, own in bits.items():
        assert sum(own) == round(counts[name].accuracy().top1 * len(own))
    ctx.runtime.close()
    return bits


def started(root: Path, models: Path, output_dir: Path, **changes: Any) -> Config:
    model = {"name": "test_efficientnet"}
    plain: dict[str, Any] = {
        "data": {"validation_fraction": 0.3},
        "model_a": model | {"init_from": str(models / "a")},
        "model_b": model | {"init_from": str(models / "b")},
        "pretrain": {"num_epochs": 0},
        "cotrain": {"num_epochs": 2, "keep_step_one": True},
    }
    return tiny_config(root, output_dir, **(plain | changes))


def test_every_rank_knows_the_same_bits_in_every_world(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = started(digits_folder, pretrained, tmp_path / "run", pool={"batch_size": 8})
    found = [bits for n in (1, 2, 3) for bits in run_ranks(right_bits, n, tmp_path, config)]
    assert len(found) == 6
    assert all(bits == found[0] for bits in found)
    assert len(found[0]["a"]) == 60
    assert 0 < sum(found[0]["a"]) < 60
    assert found[0]["a"] != found[0]["b"]


class Killed(BaseException):
    """Ends a body where a kill would."""


def train_until_killed(config: Config) -> None:
    """A body: gone once the first epoch of Step 2 is committed."""
    from cotrain_dist.training import epochs

    commit = epochs.commit_cotrain

    def dying(students: Any, state: Any, images: Any, ctx: Any) -> None:
        commit(students, state, images, ctx)
        if state.next.epoch == 2:
            raise Killed

    with mock.patch.object(epochs, "commit_cotrain", dying), pytest.raises(Killed):
        train_run(config)


def outcome_of(run: Path) -> dict[str, Any]:
    models = sorted(path.name for path in (run / "models").iterdir())
    notes = json.loads((run / "models/best/config.json").read_text())["cotrain_dist"]
    return {
        "models": {n: (run / "models" / n / "model.safetensors").read_bytes() for n in models},
        "no_loss": json.loads((run / "run.json").read_text())["no_loss"],
        "best": {key: notes[key] for key in ("role", "epoch", "top1", "chosen_on", "note")},
    }


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize(("rate", "passes"), [(1e-3, True), (1e-8, False)])
def test_killed_and_resumed_it_comes_to_the_same_end(
    num_ranks: int, rate: float, passes: bool, digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    """From random weights Step 2 learns at one rate, and changes nothing at the other."""
    plain = {"num_epochs": 2, "learning_rate": rate, "min_learning_rate": 0.0, "warmup_epochs": 0}
    changes = {
        "cotrain": plain | {"keep_step_one": True},
        **{"model_a": {"name": "test_vit"}, "model_b": {"name": "test_vit"}},
        **{"labels": "shared", "exchange": "none", "train": {"batch_size": 32}},
    }
    runs = {}
    for name in ("whole", "killed"):
        runs[name] = tmp_path / name
        config = started(digits_folder, pretrained, runs[name], **changes)
        if name == "killed":
            run_ranks(train_until_killed, num_ranks, tmp_path, config)
            before = json.loads((runs[name] / "models/best/config.json").read_text())
            assert before["cotrain_dist"]["epoch"] == 0, "Step 1, as long as nothing is shown"
        run_ranks(train_run, num_ranks, tmp_path, config, name == "killed")
    whole, killed = (outcome_of(run) for run in runs.values())
    assert whole == killed
    assert sorted(whole["models"]) == ["a", "b", "best", "step_one_a", "step_one_b"]
    role, epoch = (whole["best"][key] for key in ("role", "epoch"))
    assert (epoch > 0) == passes
    same = role if passes else f"step_one_{role}"
    assert whole["models"]["best"] == whole["models"][same]
    lines = [line for line in history_of(runs["whole"]) if line["phase"] == "cotrain"]
    assert whole["no_loss"]["top1"] == lines[epoch]["validation"][role]["top1"]
    own = max(lines[-1]["validation"][name]["top1"] for name in "ab")
    start = max(lines[0]["validation"][name]["top1"] for name in "ab")
    gained, lost = (whole["no_loss"][key] for key in ("num_gained", "num_lost"))
    assert gained - lost == round(60 * (own - start))
    printed = (tmp_path / "rank-0.out").read_text()
    assert f"models/best is {role.upper()} of {'epoch 2' if passes else 'Step 1'}: V " in printed


@pytest.mark.slow
def test_without_v_a_line_says_what_to_do(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = started(digits_folder, pretrained, tmp_path / "run", data={})
    run_ranks(train_run, 2, tmp_path, config)
    found = outcome_of(tmp_path / "run")
    assert (found["best"]["epoch"], found["best"]["chosen_on"]) == (0, "own labels")
    role = found["best"]["role"]
    assert found["models"]["best"] == found["models"][f"step_one_{role}"]
    assert "p_value" not in found["no_loss"]
    assert "data.validation_fraction: 0.1 draws one" in (tmp_path / "rank-0.out").read_text()


@pytest.mark.slow
def test_heads_are_chosen_by_folds_of_l_without_v(
    digits_folder: Path, starts: dict[str, str], tmp_path: Path
) -> None:
    heads = {
        f"model_{role}": {"name": None, "pretrained": start, "train": "head"}
        for role, start in starts.items()
    }
    data = {"feature_cache": str(tmp_path / "cache")}
    config = tiny_config(
        digits_folder, tmp_path / "run", data=data, cotrain={"keep_step_one": True}, **heads
    )
    run_ranks(train_run, 1, tmp_path, config)
    found = outcome_of(tmp_path / "run")
    assert (found["best"]["epoch"], found["best"]["chosen_on"]) == (0, "cross-validation on L")
    estimate = json.loads((tmp_path / "run/run.json").read_text())["cross_validation"]["of"]
    assert found["best"]["top1"] == max(estimate[name]["top1"] for name in "ab")


def test_without_the_key_nothing_more_is_kept(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    config = started(digits_folder, pretrained, tmp_path / "run", cotrain={"num_epochs": 1})
    train_run(config)
    assert sorted(p.name for p in (tmp_path / "run/models").iterdir()) == ["a", "b", "best"]
    assert "no_loss" not in json.loads((tmp_path / "run/run.json").read_text())
    commits = (tmp_path / "run/checkpoints/world").glob("*/*.safetensors")
    assert {path.name for path in commits} == {"ever_selected.safetensors"}

"""Consistency on real ranks: gradients by hand, the same thresholds in every world, resumes."""

import json
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from ranks import GradientRecorder, build_students, history_of, run_ranks, tiny_config, train_run
from safetensors.torch import load_file
from tiers import slow_but
from torch import Tensor

from cotrain_dist.config import Config
from cotrain_dist.method.consistency import FreeState
from cotrain_dist.method.exchange import with_unlabeled
from cotrain_dist.method.splits import Split
from cotrain_dist.training import consistency, epochs
from cotrain_dist.training import cotrain as cotrain_module
from cotrain_dist.training.batches import load_batches
from cotrain_dist.training.consistency import Tally, begin_consistency, teach_batches
from cotrain_dist.training.peers import pack_weights
from cotrain_dist.training.rounds import restart
from cotrain_dist.training.steps import plan_of, train_epoch, train_step
from cotrain_dist.types import Position, Role

BATCH_SIZE, RATIO, NUM_LABELED = 8, 3, 2
WEIGHT, FAIRNESS = 0.5, 0.1

KINDS: dict[str, dict[str, Any]] = {
    "fixed": {"threshold": 0.1, "temperature": 0.5},
    "fixed, in two micro-batches": {"threshold": 0.1, "temperature": 0.5},
    "free and soft": {"policy": "free", "targets": "soft", "momentum": 0.9},
    "free and fair": {"policy": "free", "fairness": FAIRNESS, "momentum": 0.9},
}


def _config(root: Path, num_ranks: int, kind: str) -> Config:
    """B has no batch normalization, so its gradient is that of a sum over images."""
    return tiny_config(
        root,
        Path("never-made"),
        data={"augment": "crop_flip"},
        model_b={"name": "test_vit"},
        train={"batch_size": BATCH_SIZE, "accumulation_steps": 1 + ("two" in kind)},
        consistency={"teacher": "own", "ratio": RATIO, "weight": WEIGHT} | KINDS[kind],
        placement={"ranks_a": [0] if num_ranks > 1 else None},
    )


def _learned_by_b(config: Config) -> tuple[Any, Any, Any, Any]:
    students, images, ctx = build_students(config)
    student = students[-1] if students[-1].role is Role.B else None
    learned = with_unlabeled(images.table.labeled(Role.B, "own"), images.table.sample_ids(Split.U))
    if student is not None:
        begin_consistency(student)
    return student, learned, images, ctx


def _gradient_of_a_step(config: Config) -> dict[str, Any] | None:
    """A body: B's second step of an epoch (the first one moves no weight), as a rank takes it."""
    student, learned, images, ctx = _learned_by_b(config)
    seen = None
    if student is not None:
        plan = plan_of(student, learned, ("test",)).cut(2)
        student.optimizer = GradientRecorder(student.model)
        student.trained.train()
        batches = load_batches(student, learned, plan, [0, 1], ("views",), images.pixels)
        tally = Tally(torch.zeros((), dtype=torch.int64))
        batches = teach_batches(student, batches, plan, tally)
        for _ in range(2):
            student.trained.zero_grad()
            losses = train_step(student, batches, plan.num_micro, BATCH_SIZE, ("test",))
        seen = {
            "gradient": student.optimizer.gradient,
            "loss": losses.mean_over(student.group),
            "num": float(losses.num),
            "used": tally.fraction_over(student.group),
            "state": None if student.free is None else _bits(student.free),
        }
    ctx.runtime.close()
    return seen


def _bits(state: FreeState) -> list[str]:
    return [float(x).hex() for values in asdict(state).values() for x in values.flatten()]


def _gradient_by_hand(config: Config) -> dict[str, Any]:
    """A body of one process: two steps as the papers say, image by image in plain code."""
    student, learned, images, ctx = _learned_by_b(config)
    own, num_classes = config.consistency, 10
    plan = plan_of(student, learned, ("test",)).cut(2)
    plan = replace(plan, num_micro=1)
    threshold, probs, histogram = (torch.tensor(1 / num_classes).double() for _ in range(3))
    num_used = 0
    for batch in load_batches(student, learned, plan, [0, 1], ("views",), images.pixels):
        student.model.zero_grad()
        with torch.no_grad():
            weak = student.model.eval()(batch.unlabeled.weak[0])
        q = (weak / own.temperature).softmax(dim=1).double()
        if own.policy == "free":
            threshold = 0.9 * threshold + 0.1 * q.max(dim=1).values.mean()
            probs = 0.9 * probs + 0.1 * q.mean(dim=0)
            counts = torch.bincount(q.argmax(dim=1), minlength=num_classes).double()
            histogram = 0.9 * histogram + 0.1 * counts / len(q)
            cuts = threshold * probs / probs.max()
        else:
            cuts = torch.full((num_classes,), own.threshold)
        student.model.train()
        labeled, strong = (student.model(x) for x in (batch.views[0], batch.unlabeled.strong))
        loss = F.cross_entropy(labeled, batch.targets)
        used = [row for row in range(len(q)) if q[row].max() >= cuts[q[row].argmax()]]
        num_used += len(used)
        for row in used:
            target = q[row].float() if own.targets == "soft" else F.one_hot(q[row].argmax(), 10)
            target = target.float()
            loss = loss - WEIGHT / len(q) * (target * strong[row].log_softmax(dim=0)).sum()
        if own.fairness:
            loss = loss + FAIRNESS * _fairness(strong[used], probs, histogram)
        loss.backward()
    ctx.runtime.close()
    gradient = {name: p.grad.clone() for name, p in student.model.named_parameters()}
    return {"gradient": gradient, "loss": loss.item(), "used": num_used / (2 * len(q))}


def _fairness(strong: Tensor, probs: Tensor, histogram: Tensor) -> Tensor:
    mean = strong.softmax(dim=1).mean(dim=0)
    counts = torch.bincount(strong.argmax(dim=1), minlength=len(mean)) / len(strong)
    shares = torch.stack([m / c if c > 0 else 0 * m for m, c in zip(mean, counts, strict=True)])
    wanted = torch.stack([p / h if h > 0 else 0 * p for p, h in zip(probs, histogram, strict=True)])
    return (wanted / wanted.sum() * (shares / shares.sum() + 1e-12).log()).sum()


@pytest.mark.parametrize("kind", slow_but(["fixed, in two micro-batches", "free and fair"], KINDS))
def test_a_step_minimizes_the_formulas_of_the_papers(
    kind: str, digits_folder: Path, tmp_path: Path
) -> None:
    """On three ranks, one of which has no labeled image in a step, and in one process."""
    expected = run_ranks(_gradient_by_hand, 1, tmp_path, _config(digits_folder, 1, kind))[0]
    assert 0.1 < expected["used"] <= 1.0
    assert max(values.abs().max() for values in expected["gradient"].values()) > 1e-2
    alone = run_ranks(_gradient_of_a_step, 1, tmp_path, _config(digits_folder, 1, kind))
    apart = (
        []
        if "two" in kind
        else run_ranks(_gradient_of_a_step, 4, tmp_path, _config(digits_folder, 4, kind))[1:]
    )
    for found in (*alone, *apart):
        assert found["used"] == expected["used"]
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        for name, values in expected["gradient"].items():
            torch.testing.assert_close(
                found["gradient"][name], values, rtol=1e-3, atol=1e-5, msg=name
            )
    assert sum(own["num"] for own in apart) == (BATCH_SIZE if apart else 0)
    for found in apart[1:]:
        assert found["state"] == apart[0]["state"], "every rank holds the same state"


def _follow(config: Config) -> tuple[list[str], list[str]] | None:
    """A body: three steps of policy free; B's ranks hold parts of the same probabilities."""
    student, _, _, ctx = _learned_by_b(config)
    seen = None
    if student is not None:
        for step in range(3):
            generator = torch.Generator().manual_seed(step)
            probs = (2 * torch.randn(13, 10, generator=generator)).softmax(dim=1)
            part = probs.tensor_split(student.group.size)[student.group.index]
            thresholds = consistency._thresholds(student, part, 0.9)
        seen = _bits(student.free), [float(x).hex() for x in thresholds]
    ctx.runtime.close()
    return seen


@pytest.mark.slow
def test_every_world_finds_the_same_thresholds(digits_folder: Path, tmp_path: Path) -> None:
    """Bit for bit from equal probabilities, wherever they lie."""
    expected = None
    for num_ranks in (1, 2, 3, 4):
        config = _config(digits_folder, num_ranks, "free and fair")
        found = [own for own in run_ranks(_follow, num_ranks, tmp_path, config) if own is not None]
        assert len(found) == max(1, num_ranks - 1)
        expected = expected or found[0]
        assert found == [expected] * len(found)
    assert expected is not None
    assert len(set(expected[1])) == 10, "each class has a threshold of its own"


def _both(root: Path, pretrained: Path, run: Path, **changes: Any) -> Config:
    """The most that there is: two teachers, two sizes, EMA, FreeMatch, dropout, mixing."""
    model = {"name": "test_efficientnet", "drop_rate": 0.1}
    settings: dict[str, Any] = {
        "data": {"augment": "crop_flip"},
        "model_a": model | {"init_from": str(pretrained / "a")},
        "model_b": {"name": "test_resnet", "image_size": 48},
        "pretrain": {"num_epochs": 1},
        "train": {"ema_decay": 0.95, "mixup": 0.2},
        "consistency": {"teacher": "both", "ratio": RATIO, "policy": "free", "fairness": 0.01},
        "exchange": "none",
    }
    return tiny_config(root, run, **(settings | changes))


def _files(run: Path) -> dict[str, bytes]:
    """Models and the last commits."""
    found = [run / "models" / name / "model.safetensors" for name in ("a", "b", "best")]
    for name in ("a", "b"):
        found += sorted((run / "checkpoints" / name / "cotrain-00002").glob("*.safetensors"))
    return {str(file.relative_to(run)): file.read_bytes() for file in found}


_undisturbed: dict[int, Path] = {}


@pytest.fixture(scope="module")
def undisturbed(
    digits_folder: Path, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """By number of ranks, the run directory of a training in one piece, made once."""

    def make(num_ranks: int) -> Path:
        if num_ranks not in _undisturbed:
            tmp_path = tmp_path_factory.mktemp(f"consistency_{num_ranks}")
            config = _both(digits_folder, pretrained, tmp_path / "run", **_placed(num_ranks))
            run_ranks(train_run, num_ranks, tmp_path, config)
            _undisturbed[num_ranks] = tmp_path / "run"
        return _undisturbed[num_ranks]

    yield make
    _undisturbed.clear()


def _placed(num_ranks: int) -> dict[str, Any]:
    return {"placement": {"ranks_a": [0] if num_ranks > 1 else None}}


@pytest.mark.slow
def test_one_process_and_two_ranks_end_with_the_same_bits(undisturbed: Any) -> None:
    """Each learns from the other as it was at the epoch's start, whoever trains first."""
    one, two = undisturbed(1), undisturbed(2)
    assert _files(one) == _files(two)
    assert history_of(one) == history_of(two)
    for line in history_of(one)[-2:]:
        assert line["exchange"] is None
        for name in ("a", "b"):
            # 40 labeled images, 4 in a step of 16; U takes 6 steps.
            fit = line[f"fit_{name}"]
            assert (fit["num_steps"], fit["num_samples"]) == (10, 160)
            assert 0.0 < fit["used_fraction"] < 1.0
    names = {Path(name).name for name in _files(one)}
    assert {"ema.safetensors", "consistency.safetensors"} <= names


class _Killed(BaseException):
    """Ends a body where a kill would."""


def _train_until_killed(config: Config) -> str:
    """A body: the training up to its first commit after an epoch of Step 2."""
    commit_cotrain = epochs.commit_cotrain

    def after(students: Any, state: Any, *rest: Any) -> None:
        commit_cotrain(students, state, *rest)
        if state.next.epoch == 2:
            raise _Killed

    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(epochs, "commit_cotrain", after))
        try:
            train_run(config)
        except _Killed:
            return "killed"
    return "not killed"


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_killed_and_resumed_ends_bit_equal(
    num_ranks: int, digits_folder: Path, pretrained: Path, undisturbed: Any, tmp_path: Path
) -> None:
    expected, run = undisturbed(num_ranks), tmp_path / "run"
    config = _both(digits_folder, pretrained, run, **_placed(num_ranks))
    ended = run_ranks(_train_until_killed, num_ranks, tmp_path, config)
    assert ended == ["killed"] * num_ranks
    run_ranks(train_run, num_ranks, tmp_path, config, True)
    assert json.loads((run / "run.json").read_text())["attempt"] == 2
    assert _files(run) == _files(expected)
    assert history_of(run) == history_of(expected)


@pytest.mark.parametrize("teacher", slow_but(["peer"], ["own", "ema", "peer"]))
def test_each_teacher_teaches_beside_an_exchange(
    teacher: str, digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    """R is learned as labels are; U is labeled once more within the steps."""
    config = _both(
        digits_folder,
        pretrained,
        tmp_path / "run",
        model_b={"name": "test_efficientnet", "init_from": str(pretrained / "b")},
        pretrain={"num_epochs": 0},
        train={"ema_decay": 0.9 if teacher == "ema" else 0.0, "pseudo_view": "strong"},
        consistency={"teacher": teacher, "ratio": 1, "threshold": 0.15, "targets": "soft"},
        exchange="peer",
    )
    run_ranks(train_run, 1, tmp_path, config)
    for line in history_of(tmp_path / "run")[-2:]:
        for name, other in (("a", "b"), ("b", "a")):
            # As many steps as a pass over L and R takes, or one over U, at 8 images of each.
            num_labeled = 40 + line[f"num_selected_{other}"]
            num_steps = max(-(-num_labeled // 8), -(-70 // 8))
            assert line[f"fit_{name}"]["num_steps"] == num_steps
            assert 0.0 < line[f"fit_{name}"]["used_fraction"] <= 1.0
    assert line["num_selected_a"] + line["num_selected_b"] > 0


def _begin_a_round_again(config: Config) -> dict[str, Any]:
    """A body: a training; what each model is where its last round begins, by role."""
    found = {}

    def look(student: Any, images: Any, ctx: Any) -> None:
        restart(student, images, ctx)
        state = student.model.state_dict()
        found[student.role.value] = {
            "is step one": all(
                torch.equal(values, state[name])
                for name, values in load_file(
                    ctx.store.models / f"step_one_{student.role.value}" / "model.safetensors"
                ).items()
            ),
            "is ema": torch.equal(pack_weights(student.predictor), pack_weights(student.model)),
            "updates": student.ema.num_updates,
            "thresholds": student.free.threshold.item(),
        }

    with mock.patch.object(cotrain_module, "restart", look):
        train_run(config)
    return found


@pytest.mark.slow
def test_a_round_that_begins_anew_forgets_what_teachers_were_sure_of(
    digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    """Weights of the EMA at the end of Step 1, no update of it, τ at 1 / C; the peer's as well."""
    config = _both(
        digits_folder,
        pretrained,
        tmp_path / "run",
        cotrain={"num_epochs": 2, "restart": "step_one", "warmup_epochs": 0},
    )
    (found,) = run_ranks(_begin_a_round_again, 1, tmp_path, config)
    expected = {"is step one": True, "is ema": True, "updates": 0, "thresholds": 0.1}
    assert found == {"a": expected, "b": expected}
    lines = history_of(tmp_path / "run")
    assert lines[-1]["fit_a"]["used_fraction"] > 0.0


def _momentum_of_an_epoch(config: Config) -> float:
    """A body: what a step keeps, by the number of steps of Step 2."""
    student, learned, images, ctx = _learned_by_b(config)
    seen = []
    with mock.patch.object(consistency, "_thresholds", side_effect=_noting(seen)):
        train_epoch(student, learned, "cotrain", Position(), images.pixels, ctx)
    ctx.runtime.close()
    assert len(set(seen)) == 1
    return float(seen[0])


def _noting(seen: list[float]) -> Any:
    def thresholds(student: Any, probs: Tensor, momentum: float) -> Tensor:
        seen.append(momentum)
        return torch.ones(probs.shape[1], dtype=torch.float64)

    return thresholds


def test_the_usual_momentum_follows_the_number_of_steps(
    digits_folder: Path, tmp_path: Path
) -> None:
    """20 steps an epoch (L takes longer, at 2 of 8 images) and 2 epochs: 1 - 10 / 40."""
    config = _config(digits_folder, 1, "free and soft")
    unset = replace(config, consistency=replace(config.consistency, momentum=None))
    assert run_ranks(_momentum_of_an_epoch, 1, tmp_path, unset) == [0.75]
    assert run_ranks(_momentum_of_an_epoch, 1, tmp_path, config) == [0.9]

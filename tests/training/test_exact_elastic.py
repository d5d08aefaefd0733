"""`train.exact_elastic`: any number of ranks of a model, and any change of it, gives one hash."""

import hashlib
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from ranks import history_of, run_ranks, tiny_config, train_run
from safetensors.torch import save_file
from torch import Tensor, nn

from cotrain_dist.config import Config
from cotrain_dist.errors import UserError
from cotrain_dist.runtime.collectives import RankGroup
from cotrain_dist.training.exact import ExactSums, round_loss
from cotrain_dist.training.setup import check_precision
from cotrain_dist.training.steps import check_parts
from cotrain_dist.training.within import Within, _part_of_rank
from cotrain_dist.types import Role

ALONE = RankGroup("alone", (0,), 0)

# Ranks of the world, and those of A: so A has 1 or 3 of them, and B 1, 2 or 4.
WORLDS: dict[str, tuple[int, list[int] | None]] = {
    "one for both": (1, None),
    "1 + 2": (3, [0]),
    "3 + 1": (4, [0, 1, 2]),
    "1 + 4": (5, [0]),
}


def _config(kind: str, root: Path, models: Path, output_dir: Path, ranks_a: Any) -> Config:
    """Everything that could depend on the cut of a step: dropout, statistics, mixing, averages."""
    model = {"name": "test_efficientnet", "drop_rate": 0.1}
    teaching = {"teacher": "both", "policy": "free", "ratio": 1, "fairness": 0.0}
    return tiny_config(
        root,
        output_dir,
        data={"augment": "crop_flip"},
        model_a=model | {"init_from": f"{models}/a"},
        model_b=model | {"init_from": f"{models}/b"},
        train={
            "batch_size": 10,
            "mixup": 0.2,
            "ema_decay": 0.9,
            "clip_grad_norm": 1.0,
            "exact_elastic": 4,
        },
        pretrain={"num_epochs": 2, "learning_rate": 1e-3},
        consistency=teaching if kind == "teachers" else {"teacher": "off"},
        exchange="none" if kind == "teachers" else "alternate",
        placement={"ranks_a": ranks_a},
        checkpoint={"every_steps": 2, "every_minutes": None},
    )


def _ends(run: Path) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """The history, and digests of the models."""
    files = sorted(run.glob("models/*/model.safetensors"))
    assert len(files) == 3
    return history_of(run), {
        str(file.relative_to(run)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "worlds"),
    [
        ("exchange", ["one for both", "1 + 2"]),
        ("exchange", ["one for both", "3 + 1", "1 + 4"]),
        ("teachers", list(WORLDS)),
    ],
)
def test_all_worlds_end_with_one_hash(
    kind: str, worlds: list[str], digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    ends = []
    for name in worlds:
        num_ranks, ranks_a = WORLDS[name]
        config = _config(kind, digits_folder, pretrained, tmp_path / name, ranks_a)
        run_ranks(train_run, num_ranks, tmp_path, config)
        ends.append(_ends(tmp_path / name))
    assert [end == ends[0] for end in ends] == [True] * len(worlds)


class _Killed(BaseException):
    """Ends a body where a kill would: nothing of the package catches it."""


def _train_until_killed(config: Config, resume: bool, phase: str, num_steps: int) -> bool:
    """A body: train until some steps of an epoch 2 are behind a model; whether it came so far."""
    look = Within.look

    def looked(self: Any, progress: Any) -> None:
        look(self, progress)
        if (self._phase, self._epoch) == (phase, 2) and progress.num_steps == num_steps:
            self.wait()
            raise _Killed

    with mock.patch.object(Within, "look", looked):
        try:
            train_run(config, resume)
        except _Killed:
            return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["exchange", "teachers"])
def test_a_run_that_changes_its_world_twice_within_epochs_ends_with_that_hash(
    kind: str, digits_folder: Path, pretrained: Path, tmp_path: Path
) -> None:
    whole, changing = tmp_path / "whole", tmp_path / "changing"
    undisturbed = _config(kind, digits_folder, pretrained, whole, None)
    run_ranks(train_run, 1, tmp_path, undisturbed)
    stops = [("1 + 2", "pretrain", 2), ("3 + 1", "cotrain", 2), ("one for both", "never", 0)]
    for number, (name, phase, num_steps) in enumerate(stops):
        num_ranks, ranks_a = WORLDS[name]
        config = _config(kind, digits_folder, pretrained, changing, ranks_a)
        killed = run_ranks(
            _train_until_killed, num_ranks, tmp_path, config, number > 0, phase, num_steps
        )
        assert any(killed) == (phase != "never")
        assert (
            all("goes on after step 2" in log for log in _logs(changing, number + 1)) or not number
        )
    assert _ends(changing) == _ends(whole)
    assert not any("not bit-equal" in log for log in _logs(changing))


def _logs(run: Path, attempt: int | None = None) -> list[str]:
    return [file.read_text() for file in sorted(run.glob("logs/*"))]


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2, momentum=0.25))


def _after(order: list[int], shards: list[Tensor]) -> list[Tensor]:
    """Gradients and statistics after the shards of a step in some order."""
    net = _net()
    sums = ExactSums(net, len(shards), ALONE)
    sums.begin()
    for index in order:
        sums.enter_shard()
        net(shards[index]).square().sum().backward()
        sums.leave_shard()
    sums.finish()
    gradients = [parameter.grad for parameter in net.parameters()]
    return [*(own for own in gradients if own is not None), *net.buffers()]


def test_sums_are_those_of_plain_gradients_in_any_order() -> None:
    shards = [scale * torch.randn(4, 3) for scale in (1.0, 1e3, 1e-3)]
    forward, backward = _after([0, 1, 2], shards), _after([2, 0, 1], shards)
    assert all(torch.equal(*pair) for pair in zip(forward, backward, strict=True))

    net, means = _net(), []
    for shard in shards:
        net(shard).square().sum().backward()
        means.append(net[0](shard).mean(dim=0))
    plain = [parameter.grad for parameter in net.parameters()]
    for ours, theirs in zip(forward, plain, strict=False):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-6)
    # One step of the running mean, by the mean over the shards.
    wanted = 0.25 * torch.stack(means).mean(dim=0)
    assert torch.allclose(forward[len(plain)], wanted, rtol=1e-5)
    assert int(forward[-1]) == 1  # batches tracked


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e12])
def test_what_cannot_be_added_is_nan_everywhere(bad: float) -> None:
    shards = [torch.randn(4, 3), torch.randn(4, 3)]
    net = nn.Linear(3, 2)
    sums = ExactSums(net, 2, ALONE)
    sums.begin()
    for number, shard in enumerate(shards):
        sums.enter_shard()
        (net(shard).sum() * (bad if number else 1.0)).backward()
        sums.leave_shard()
    sums.finish()
    assert all(own.grad is not None and own.grad.isnan().all() for own in net.parameters())


def test_rounded_losses_add_up_in_any_order() -> None:
    values = [round_loss(loss) for loss in torch.rand(1000) * 100.0]
    assert sum(values) == sum(reversed(values))
    assert float(round_loss(torch.tensor(2.5))) == 2.5


def test_more_ranks_than_shards_are_refused(digits_folder: Path, pretrained: Path) -> None:
    config = _config("exchange", digits_folder, pretrained, Path("never-made"), None)
    with pytest.raises(UserError, match=r"exact_elastic: 4: is less than the 6 ranks of role A"):
        check_parts(100, 0, Role.A, 6, config.train)
    with pytest.raises(UserError, match=r"train.exact_elastic is 4, .* needs 2"):
        check_parts(7, 0, Role.A, 1, config.train)


def test_fp16_is_refused(digits_folder: Path, pretrained: Path) -> None:
    config = _config("exchange", digits_folder, pretrained, Path("never-made"), None)
    check_precision(config, "bf16")
    with pytest.raises(UserError, match=r"precision: fp16: .* train.exact_elastic"):
        check_precision(config, "fp16")


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_counts_are_shared_out_anew_among_another_number_of_ranks(
    num_ranks: int, tmp_path: Path
) -> None:
    for index in range(3):
        counts = {"count.loss": 1.5 + index, "count.num_skipped": 2.0, "buffer.mean": 0.25}
        tensors = {name: torch.tensor(value) for name, value in counts.items()}
        save_file(tensors, tmp_path / f"rank-{index}.safetensors")
    found = []
    for index in range(num_ranks):
        group = RankGroup("role", tuple(range(num_ranks)), index)
        student: Any = SimpleNamespace(group=group, exact=object())
        found.append(_part_of_rank(tmp_path, student))
    assert sum(float(own["count.loss"]) for own in found) == 1.5 + 2.5 + 3.5
    assert {float(own["count.num_skipped"]) for own in found} == {2.0}
    assert {float(own["buffer.mean"]) for own in found} == {0.25}

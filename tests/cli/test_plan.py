"""`plan`: shards, batches and steps are those of real worlds; its tables and its mistakes."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from conftest import FinishedRun, two_models_config
from ranks import build_students, run_ranks

from cotrain_dist.cli import main as cli
from cotrain_dist.config import Config, ConsistencyConfig
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.data.stream import PixelSource
from cotrain_dist.method.placement import Placement, RankRow
from cotrain_dist.method.splits import Split
from cotrain_dist.method.steps import order_samples, split_into_steps, split_step
from cotrain_dist.planning import plan as planning
from cotrain_dist.planning.plan import bytes_between_nodes, plan_world, seconds_per_epoch
from cotrain_dist.planning.tables import Plan, RolePlan
from cotrain_dist.training.setup import split_table_of
from cotrain_dist.types import ROLES, Role


def plan_of(config: Config, num_ranks: int) -> Plan:
    """As the command makes it."""
    return plan_world(config, num_ranks, 1, "cpu")


def real_shares(config: Config) -> dict[str, Any]:
    """A body: roles, and the images that this rank labels, measures and trains at a time."""
    from cotrain_dist.training import evaluate
    from cotrain_dist.training.pool import vote_on_pool

    students, images, ctx = build_students(config)
    sizes: list[list[int]] = []

    class Noting(PixelSource):
        """Notes the sizes of the batches that are asked for."""

        def batches(self, view: Any, batches: Sequence[Any]) -> Any:
            sizes.append([len(batch) for batch in batches])
            return super().batches(view, batches)

    images = replace(images, pixels=Noting(images.pixels.read))
    vote_on_pool(students, images, ctx)
    evaluate.measure_split(students, Split.T, images, ctx)
    rt = ctx.runtime
    group = students[0].group
    size = config.train.batch_size
    parts = [
        len(positions)
        for step in split_into_steps(order_samples(3 * size, "order"), size)
        for positions in split_step(step, group.size, config.train.accumulation_steps)[group.index]
    ]
    rt.close()
    num_roles = len(students)
    assert all(sizes[0] == pool for pool in sizes[:num_roles])
    assert all(sizes[-1] == test for test in sizes[num_roles:])
    return {
        "roles": [role.value for role in rt.roles_here],
        "role_rank": group.index,
        "num_pool_images": sum(sizes[0]),
        "num_pool_chunks": len(sizes[0]),
        "num_test_images": sum(sizes[-1]),
        "largest_batch": max(parts),
    }


@pytest.mark.parametrize("num_ranks", [1, 2, pytest.param(3, marks=pytest.mark.slow)])
@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_plan_is_what_a_real_world_does(
    digits_table: Path, tmp_path: Path, num_ranks: int, accumulation_steps: int
) -> None:
    config = two_models_config(digits_table, tmp_path / "run", tracking="none")
    train = replace(config.train, batch_size=12, accumulation_steps=accumulation_steps)
    config = replace(config, train=train)
    plan = plan_of(config, num_ranks)
    real = run_ranks(real_shares, num_ranks, tmp_path, config)
    for rank, found in zip(plan.ranks, real, strict=True):
        expected = {key: getattr(rank, key) for key in found if key != "roles"}
        assert expected | {"roles": [role.value for role in rank.roles]} == found
    for role in ROLES:
        shares = [rank for rank in plan.ranks if role in rank.roles]
        table = split_table_of(config)
        assert sum(r.num_pool_images for r in shares) == len(table.sample_ids(Split.U))
        assert sum(r.num_test_images for r in shares) == len(table.sample_ids(Split.T))


def test_steps_and_parameters_are_those_of_the_run(finished_run: FinishedRun) -> None:
    import timm

    plan = plan_of(finished_run.config, 1)
    for role, own in plan.roles.items():
        name = role.value
        first = next(r for r in finished_run.pretrain if r.role == name)
        assert own.steps_pretrain == first.fit.num_steps
        assert own.num_labeled == first.fit.num_samples
        least, most = own.steps_cotrain
        for record in finished_run.cotrain[1:]:
            assert least <= record.roles[name].fit.num_steps <= most
        model = timm.create_model(f"local-dir:{finished_run.path}/models/{name}", pretrained=True)
        assert own.num_parameters == sum(p.numel() for p in model.parameters())
    assert all(num_bytes == 0 for num_bytes in plan.gradient_bytes.values())


def test_steps_of_epochs_that_repeat_labeled_images(digits_table: Path, tmp_path: Path) -> None:
    """Three of 72 images of U at most in each step of twelve."""
    config = two_models_config(digits_table, tmp_path / "run")
    train = replace(config.train, batch_size=12, least_labeled_fraction=0.75)
    plan = plan_of(replace(config, train=train), 1)
    assert [own.steps_cotrain[1] for own in plan.roles.values()] == [24, 24]


def test_bytes_by_hand(digits_table: Path, tmp_path: Path) -> None:
    """U holds 4 * (24 - 6 - 4 - 8) known and 48 unknown images, T 24 and V 16; 4 classes."""
    plan = plan_of(two_models_config(digits_table, tmp_path / "run"), 3)
    assert plan.vote_bytes == 2 * 4 * (24 + 48)
    assert plan.measure_bytes == 2 * 4 * 4 * (24 + 16)
    alone = [role for role in ROLES if sum(role in rank.roles for rank in plan.ranks) == 1]
    assert len(alone) == 1
    for role in ROLES:
        reduced = 0 if role in alone else 4 * plan.roles[role].num_parameters
        assert plan.gradient_bytes[role] == reduced


def test_memory_grows_with_batch_and_image_size(digits_table: Path, tmp_path: Path) -> None:
    config = two_models_config(digits_table, tmp_path / "run")
    small, a = plan_of(config, 2), Role.A
    large = plan_of(replace(config, model_a=replace(config.model_a, image_size=32)), 2)
    assert large.roles[a].image_bytes > 3 * small.roles[a].image_bytes
    assert large.roles[a].state_bytes == small.roles[a].state_bytes
    # AdamW: weights, gradients and two moments, besides the statistics of normalization.
    # A's SGD keeps one moment.
    for role, num_copies in ((Role.B, 4), (Role.A, 3)):
        own = small.roles[role]
        assert num_copies <= own.state_bytes / (4 * own.num_parameters) < num_copies + 0.1


def test_steps_memory_and_seconds_with_consistency(digits_table: Path, tmp_path: Path) -> None:
    """16 labeled images and 72 of U; of 10 images in a step 2 are labeled."""
    plain = two_models_config(digits_table, tmp_path / "run")
    plain = replace(plain, model_a=replace(plain.model_a, augment="crop_flip"), exchange="none")
    train = replace(plain.train, ema_decay=0.9)
    teachers = ConsistencyConfig(teacher="both", ratio=4)
    config = replace(plain, train=train, consistency=teachers)
    before, after = plan_of(plain, 2), plan_of(config, 2)
    for role in ROLES:
        own = after.roles[role]
        assert own.steps_cotrain == (9, 9)  # 72 images, 8 in a step
        assert own.steps_pretrain == before.roles[role].steps_pretrain
        num_more = (own.state_bytes - before.roles[role].state_bytes) / (4 * own.num_parameters)
        assert 1.0 <= num_more < 1.1
    for rank, old in zip(after.ranks, before.ranks, strict=True):
        (role,) = rank.roles
        other = after.roles[role.peer]
        grown = after.roles[role].state_bytes - before.roles[role].state_bytes
        grown += 4 * other.num_parameters
        # What a process without a model holds is measured, and moves a little.
        assert rank.memory_bytes - old.memory_bytes == pytest.approx(grown, abs=2**24)
    measured = {
        role: replace(own, train_seconds=1.0, label_seconds=0.1)
        for role, own in after.roles.items()
    }
    table, placement = split_table_of(config), Placement((0,), (1,))
    seconds = seconds_per_epoch(measured, placement, config, table)
    assert seconds == pytest.approx(9 * 10 + 2 * 9 * 8 * 0.1)


def settings_of(table: Path, folder: Path, **changes: Any) -> list[str]:
    config = two_models_config(table, folder / "run", tracking="none", **changes)
    (folder / "settings.yaml").write_text(config_to_yaml(config))
    return ["--config", str(folder / "settings.yaml")]


def test_tables_for_people(
    digits_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_of(digits_table, tmp_path)
    assert cli.main(["plan", "--num_ranks", "4", "--num_nodes", "2", *settings]) == 0
    printed = capsys.readouterr().out
    rows = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in printed.splitlines()
        if line.startswith("│")
    ]
    plan = plan_of(two_models_config(digits_table, tmp_path / "run"), 4)
    for rank, row in zip(plan.ranks, rows[:4], strict=True):
        index = rank.row.global_rank
        assert row[:3] == [str(index), f"node{index // 2}", f"cpu {index % 2}"]
        assert row[4:8] == [
            *(str(rank.num_pool_images), str(rank.num_pool_chunks)),
            *(str(rank.num_test_images), str(rank.largest_batch)),
        ]
    assert [row[0] for row in rows[4:6]] == ["A", "B"]
    assert "MiB of votes at an exchange" in printed
    assert "takes about" not in printed
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("num_ranks", "train", "expected"),
    [
        (1, {}, None),
        (4, {}, "sees 5 of the 10 images of a step"),
        (4, {"norm": "sync"}, None),
        (2, {"accumulation_steps": 2}, "sees 5 of the 10 images of a step"),
        (2, {"accumulation_steps": 2, "norm": "sync"}, "sees 5 of the 10 images of a step"),
        (4, {"batch_size": 32}, None),
    ],
)
def test_few_images_for_batch_normalization(
    num_ranks: int, train: dict[str, Any], expected: str | None, digits_table: Path, tmp_path: Path
) -> None:
    """A normalizes over the batch, B (a transformer) does not."""
    config = two_models_config(digits_table, tmp_path / "run", tracking="none")
    config = replace(config, train=replace(config.train, **train))
    lines = [line for line in plan_of(config, num_ranks).warnings if "batch norm" in line]
    assert len(lines) == (expected is not None)
    if expected is not None:
        assert lines[0].startswith(f"A: batch normalization {expected}")
        assert ("train.norm sync" in lines[0]) == (num_ranks == 4)


def test_micro_shards_are_planned_as_whole_steps(digits_table: Path, tmp_path: Path) -> None:
    config = two_models_config(digits_table, tmp_path / "run", tracking="none")
    cut = replace(config, train=replace(config.train, exact_elastic=2))
    whole, shards = plan_of(config, 2), plan_of(cut, 2)
    assert shards.roles == whole.roles


def test_frozen_statistics_need_no_images_beside_them(
    digits_table: Path, tmp_path: Path, starts: dict[str, str]
) -> None:
    config = two_models_config(digits_table, tmp_path / "run", tracking="none")
    begun = {
        name: replace(getattr(config, f"model_{name}"), pretrained=starts[name], name=None)
        for name in "ab"
    }
    found = []
    for norm in ("local", "frozen"):
        train = replace(config.train, norm=norm)
        changed = replace(config, model_a=begun["a"], model_b=begun["b"], train=train)
        found.append(sum("batch norm" in line for line in plan_of(changed, 4).warnings))
    assert found == [2, 0]


def test_measuring_prints_a_time(
    digits_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["plan", "--measure", *settings_of(digits_table, tmp_path)]) == 0
    printed = capsys.readouterr().out
    line = r"An epoch of Step 2 with R empty takes about \d+ s at the speed measured here on cpu, "
    assert re.search(line, printed)
    rows = [line.split("│") for line in printed.splitlines() if line.startswith("│")]
    speeds = [int(cell) for row in rows[-2:] for cell in row[-3:-1]]
    assert len(speeds) == 4
    assert min(speeds) > 0


@pytest.mark.parametrize("device", ["cpu", "auto", "cuda"])
def test_measuring_takes_the_device_of_the_training(
    device: Literal["cpu", "auto", "cuda"],
    digits_table: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not another one without a word: a GPU where the settings say CPU, or the other way round."""
    asked = []

    def ask(config: Config) -> None:
        asked.append((config.device, config.precision))
        raise KeyboardInterrupt

    monkeypatch.setattr(planning, "start_alone", ask)
    config = two_models_config(digits_table, tmp_path / "run", tracking="none", device=device)
    config = replace(config, precision="bf16")
    for measure in (True, False):
        with pytest.raises(KeyboardInterrupt):
            plan_world(config, 1, 1, "cpu", measure=measure)
    assert asked == [(device, "bf16"), ("cpu", "fp32")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--num_ranks", "0"], "--num_ranks: 0: must be at least 1"),
        (["--num_ranks", "3", "--num_nodes", "2"], "--num_ranks: 3: must be a multiple of --num_n"),
        (["--num_ranks", "1", "--num_nodes", "2"], "--num_ranks: 1: must be a multiple of --num_n"),
        (["--num_ranks", "2", "--num_nodes", "0"], "--num_nodes: 0: must be at least 1"),
        (
            ["--num_ranks", "two"],
            "command line: cotrain-dist plan: argument --num_ranks: two is no whole number",
        ),
        (
            ["--num_rank", "2"],
            "command line: --num_rank: no such option; did you mean --num_ranks.",
        ),
        (["--num_ranks", "2", "--placement.ranks_a", "[0, 1]"], "placement.ranks_a: "),
        (
            ["--num_ranks", "64"],
            "train.batch_size: 10: can leave 0 image(s) per rank and micro-batch",
        ),
    ],
)
def test_mistakes_of_plan(
    arguments: list[str],
    message: str,
    digits_table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert cli.main(["plan", *arguments, *settings_of(digits_table, tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("nodes", "placement", "expected"),
    [
        ("xxxx", Placement((0, 1), (2, 3)), 0),
        # Each role on a node of its own: what is gathered passes the one link.
        ("xxyy", Placement((0, 1), (2, 3)), 1000),
        # Three nodes, two links.
        ("xyz", Placement((0,), (1, 2)), 2 * 1000 + 2 * (2 * 1 * 4 * 70 // 2) * 5),
        # Both roles on both nodes: a ring of two sends all of the gradients over both of its links.
        ("xxyy", Placement((0, 2), (1, 3)), 1000 + 2 * (4 * 70) * 5 + 2 * (4 * 70) * 5),
    ],
)
def test_bytes_between_nodes_by_hand(nodes: str, placement: Placement, expected: int) -> None:
    rows = [RankRow(rank, node, "cpu") for rank, node in enumerate(nodes)]
    roles = {
        role: RolePlan(
            role=role,
            num_parameters=70,
            num_labeled=50,
            steps_pretrain=5,
            steps_cotrain=(5, 9),
            state_bytes=0,
            image_bytes=0,
        )
        for role in ROLES
    }
    assert bytes_between_nodes(rows, placement, roles, 1000) == expected


@pytest.mark.parametrize(
    ("num", "said"),
    [
        (0, "0 may suffice for none of these; queue RUN --audit N draws more."),
        (59, "59 may suffice for --min_precision 0.90, --min_precision 0.95, --max_error 0.05;"),
    ],
)
def test_it_says_what_a_promise_asks_for(
    num: int, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["--config", str(Path(__file__).parents[2] / "configs" / "digits.yaml")]
    words = ["plan", *settings, "--output_dir", str(tmp_path), "--data.audit_images", str(num)]
    assert cli.main(words) == 0
    needed = [
        *("--min_precision 0.90: 29", "--min_precision 0.95: 59", "--min_precision 0.98: 149"),
        *("--max_error 0.05: 59", "--max_error 0.01: 299"),
    ]
    out = " ".join(capsys.readouterr().out.split())
    assert f"if none of these is labeled wrongly: {', '.join(needed)}." in out
    assert f"data.audit_images {said}" in out

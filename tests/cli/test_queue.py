"""`queue`: the same list in every world, copies once, and its errors."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from ranks import run_ranks, tiny_config, train_run

from cotrain_dist.cli import main as cli
from cotrain_dist.method.strategies import STRATEGIES


def run_queue(arguments: list[str]) -> int:
    """A body: the command."""
    return cli.main(["queue", *arguments])


def listed(file: Path) -> list[str]:
    header, *rows = file.read_text().splitlines()
    assert header == "path,label"
    assert all(row.endswith(",") for row in rows)
    return [row.removesuffix(",") for row in rows]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["herding", "density", "random"])
def test_a_folder_gives_the_same_list_in_every_world(
    strategy: str, digits_folder: Path, start_options: list[str], tmp_path: Path
) -> None:
    lists = []
    for num_ranks in (1, 2, 3, 4):
        file = tmp_path / f"{num_ranks}.csv"
        run_ranks(
            run_queue,
            num_ranks,
            tmp_path,
            [
                *("--data.root", str(digits_folder), "--size", "30", "--output", str(file)),
                *("--strategy", strategy, *start_options),
                *("--data.feature_cache", str(tmp_path / f"cache{num_ranks}")),
            ],
        )
        lists.append(listed(file))
    assert lists[0] == lists[1] == lists[2] == lists[3]
    assert len(set(lists[0])) == 30
    assert all((digits_folder / path).is_file() for path in lists[0])


def test_equal_and_near_images_are_listed_once(
    digits_folder: Path, start_options: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "images"
    for index, file in enumerate(sorted((digits_folder / "digit_3").iterdir())[:6]):
        (root / "deep").mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / f"{index}.png")
        shutil.copy(file, root / "deep" / f"{index}.png")
    options = [
        "--data.root",
        str(root),
        *start_options,
        "--data.feature_cache",
        str(tmp_path / "cache"),
    ]
    for near, number in (("0", 6), ("2", 1)):
        file = tmp_path / f"near{near}.csv"
        assert run_queue([*options, "--size", "6", "--near", near, "--output", str(file)]) == 0
        assert len(listed(file)) == number
    digests = {(root / path).read_bytes() for path in listed(tmp_path / "near0.csv")}
    assert len(digests) == 6


def test_a_table_gives_its_unlabeled_images(
    digits_table: Path, start_options: list[str], tmp_path: Path
) -> None:
    file = tmp_path / "list.csv"
    options = ["--data.table", str(digits_table), *start_options]
    options += ["--data.feature_cache", str(tmp_path / "cache")]
    assert run_queue([*options, "--size", "9", "--output", str(file)]) == 0
    table = dict(line.split(",") for line in digits_table.read_text().splitlines()[1:])
    assert [table[path] for path in listed(file)] == [""] * 9


@pytest.fixture(scope="module")
def heads_run(
    digits_folder: Path, starts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run of two heads."""
    folder = tmp_path_factory.mktemp("heads_run")
    config = tiny_config(
        digits_folder,
        folder / "run",
        data={"feature_cache": str(folder / "cache"), "labeled_per_class": 3},
        model_a={"name": None, "pretrained": starts["a"], "train": "head"},
        model_b={"name": None, "pretrained": starts["b"], "train": "head"},
        cotrain={"num_epochs": 1},
    )
    run_ranks(train_run, 1, folder, config)
    return folder / "run"


def test_a_run_is_asked_in_every_way(heads_run: Path, tmp_path: Path) -> None:
    lists = {}
    for strategy in STRATEGIES:
        file = tmp_path / f"{strategy}.csv"
        options = ["--size", "12", "--strategy", strategy, "--output", str(file), "--near", "0"]
        assert run_queue([str(heads_run), *options]) == 0
        lists[strategy] = listed(file)
    # The votes of two models differ or not; among those that differ, the committee's order counts.
    others = [tuple(paths) for name, paths in lists.items() if name != "vote_entropy"]
    assert len(set(others)) == len(STRATEGIES) - 1
    from cotrain_dist.data.splits import load_split_table
    from cotrain_dist.method.splits import Split

    table = load_split_table(heads_run)
    pool = {table.listing.paths[i] for i in table.sample_ids(Split.U).tolist()}
    assert all(len(set(paths)) == 12 and set(paths) <= pool for paths in lists.values())


def test_one_of_a_group_is_asked_and_tasks_hold_both_models_votes(
    heads_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Digits have no near copies, so the cut is raised until some count as such."""
    monkeypatch.setattr("cotrain_dist.method.groups.group_near.__defaults__", (0.9,))
    words = [str(heads_run), "--size", "9", "--strategy", "random", "--near", "0", "--output"]
    assert run_queue([*words, str(tmp_path / "q.csv")]) == 0
    with (tmp_path / "q.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    asked = [row["path"] for row in rows if not row["same_as"]]
    assert len(asked) == 9 < len(rows)
    assert {row["same_as"] for row in rows} - {""} <= set(asked)
    assert run_queue([*words, str(tmp_path / "q.json")]) == 0
    tasks = json.loads((tmp_path / "q.json").read_text())
    assert [task["data"]["path"] for task in tasks] == asked
    assert sum(len(task["data"]["same"]) for task in tasks) == len(rows) - 9
    for task in tasks:
        assert [own["model_version"] for own in task["predictions"]] == ["A", "B"]
        assert all(0.0 < own["score"] <= 1.0 for own in task["predictions"])
        assert task["data"]["image"].startswith("/data/local-files/?d=")
    assert run_queue([*words, str(tmp_path / "single.csv"), "--group", "false"]) == 0
    assert len(listed(tmp_path / "single.csv")) == 9


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["herding_rounds", "expected_gradient", "committee"])
def test_a_run_gives_the_same_list_in_every_world(
    strategy: str, heads_run: Path, tmp_path: Path
) -> None:
    lists = []
    for num_ranks in (1, 2, 3):
        file = tmp_path / f"{num_ranks}.csv"
        options = ["--size", "20", "--strategy", strategy, "--output", str(file)]
        run_ranks(run_queue, num_ranks, tmp_path, [str(heads_run), *options])
        lists.append(listed(file))
    assert lists[0] == lists[1] == lists[2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "0"], "--size: 0: must be at least 1"),
        (["--size", "999"], "--size: 999: 200 different image"),
        (["--near", "3"], "--near: 3.0: must lie between 0 and 2"),
        (["--strategy", "best"], "--strategy: best: is no strategy"),
        (["--strategy", "margin"], "--strategy: margin: asks what models say"),
        (["--output", "OUT/list.txt"], "must end in .csv"),
        (["--output", "OUT/there.csv"], "exists already"),
        (["--output", "OUT/none/list.csv"], "its folder does not exist"),
        (["--data.root", "OUT/empty"], "data.root: OUT/empty: holds no image"),
        (["--data.source", "digits"], "data.source: digits: its images are no files"),
    ],
)
def test_mistakes_are_told_and_nothing_is_written(
    options: list[str],
    message: str,
    digits_folder: Path,
    start_options: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "empty").mkdir()
    arguments = {"--output": str(tmp_path / "list.csv"), "--data.root": str(digits_folder)}
    given = [word.replace("OUT", str(tmp_path)) for word in options]
    arguments |= dict(zip(given[::2], given[1::2], strict=True))
    cache = ["--data.feature_cache", str(tmp_path / "cache")]
    words = [word for pair in arguments.items() for word in pair]
    assert run_queue([*words, *start_options, *cache]) == 2
    assert message.replace("OUT", str(tmp_path)) in capsys.readouterr().err
    assert (tmp_path / "there.csv").read_text() == "mine"
    assert not (tmp_path / "list.csv").exists()

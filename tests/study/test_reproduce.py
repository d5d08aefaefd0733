"""`reproduce` with real trainings: killed and finished, added to, in one process and in two."""

import fcntl
import gc
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from ranks import RanksFailed, run_ranks, tiny_config

from cotrain_dist.cli import main as cli
from cotrain_dist.config import Config
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.data.sources.listing import UNKNOWN
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.method.splits import Split
from cotrain_dist.study.arms import BY_NAME
from cotrain_dist.study.parts import FORMAT_LINE, open_study
from cotrain_dist.study.reproduce import _knows_labels_of_pool, report_on

ARMS = [
    *("none-own", "alternate-shared", "none-shared-steps"),
    *("vote", "vote-steps", "ceiling", "ceiling-equal"),
]

KINDS_OF_L = ([Split.L_A, Split.L_B], [Split.L_A, Split.L_B, Split.U])
NUM_SAMPLES = ("num_samples_before", "num_samples")


def _reproduce(config: Config, arms: list[str], seeds: tuple[int, ...] = (0,)) -> str:
    """A body: the study; the error that it ends with."""
    from cotrain_dist.runtime.accelerator import start_runtime
    from cotrain_dist.study.reproduce import reproduce

    try:
        rt = start_runtime(config)
        reproduce(config, seeds, arms, rt)
        rt.close()
    except UserError as error:
        return str(error)
    return ""


def _reproduce_until_killed(config: Config, arms: list[str]) -> None:
    """A body: the process is gone in the middle of an arm, its first epoch committed."""
    from cotrain_dist.training import epochs

    commit = epochs.commit_cotrain

    def dying(students: Any, state: Any, images: Any, ctx: Any) -> None:
        commit(students, state, images, ctx)
        if ctx.store.path.name == "alternate-shared" and state.next.epoch == 2:
            os._exit(9)

    with mock.patch.object(epochs, "commit_cotrain", dying):
        _reproduce(config, arms)


@pytest.fixture(scope="module")
def study(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The undisturbed study, in one process."""
    tmp_path = tmp_path_factory.mktemp("study")
    config = tiny_config(
        digits_folder, tmp_path / "study", pretrain={"num_epochs": 6, "learning_rate": 3e-3}
    )
    # Eight trainings: on a busy machine more than what a test of one may take.
    assert run_ranks(_reproduce, 1, tmp_path, config, ARMS, timeout_seconds=400) == [""]
    return config


def outcomes_of(folder: Path) -> dict[str, Any]:
    """What the study has measured, without what the clock says."""
    outcomes: dict[str, Any] = json.loads((folder / "results.json").read_text())["outcomes"]
    for by_seed in outcomes.values():
        for outcome in by_seed.values():
            del outcome["seconds"], outcome["seconds_before"]
    return outcomes


@pytest.mark.slow
def test_every_part_has_run_and_is_reported(study: Config) -> None:
    folder = Path(study.output_dir)
    outcomes = outcomes_of(folder)
    assert {arm for arm, by_seed in outcomes.items() if by_seed} == {"start", *ARMS}
    for role in "ab":
        steps, before = (
            {arm: by_seed["0"][key][role] for arm, by_seed in outcomes.items() if by_seed}
            for key in ("num_steps", "num_steps_before")
        )
        assert steps["none-shared-steps"] >= steps["alternate-shared"]
        assert before["start"] <= before["vote-steps"] < before["vote"]
        assert steps["vote-steps"] >= steps["alternate-shared"]
        assert steps["alternate-shared"] > steps["none-own"]
    begun = {tuple(outcomes[arm]["0"]["curve"][n][0] for n in "ab") for arm in ("start", *ARMS[:3])}
    assert len(begun) == 1, "all conditions start from the same A and B"
    assert outcomes["alternate-shared"]["0"]["pool"][0] is not None
    text = (folder / "report.md").read_text()
    assert "one seed, not decided" in text
    assert "gap closed by models/best" in text
    assert "at 32 pixels" in text
    for arm in ("start", *ARMS):
        found = outcomes[arm]["0"]
        notes = json.loads((folder / "seed-0" / arm / "models/best/config.json").read_text())
        role, epoch, top1 = (notes["cotrain_dist"][key] for key in ("role", "epoch", "top1"))
        assert found["saved"] == found["curve"][role][epoch] == pytest.approx(100 * top1)
    table = load_split_table(folder / "seed-0" / "start").splits
    num_labeled, num_all = (int(torch.isin(table, torch.tensor(kept)).sum()) for kept in KINDS_OF_L)
    images = {arm: {k: outcomes[arm]["0"][k]["a"] for k in NUM_SAMPLES} for arm in ARMS}
    assert list(images["vote"].values()) == [6 * num_labeled, 2 * num_labeled]
    assert list(images["ceiling"].values()) == [6 * num_all, 2 * num_all]
    assert sum(images["ceiling-equal"].values()) == pytest.approx(8 * num_labeled, abs=num_all / 2)
    source = json.loads((folder / "seed-0" / "start" / "environment.json").read_text())["source"]
    assert f"All parts were trained by the source {source}." in text


@pytest.mark.slow
def test_the_ceiling_alone_knows_the_labels_of_u(study: Config) -> None:
    of_seed = Path(study.output_dir) / "seed-0"
    groups = {arm: load_split_table(of_seed / arm).splits for arm in ("start", *ARMS)}
    for arm in set(ARMS) - {"ceiling", "ceiling-equal"}:
        assert groups[arm].tolist() == groups["start"].tolist()
    given = groups["ceiling"][groups["start"] == Split.U]
    assert sorted(set(given.tolist())) == [Split.L_A, Split.L_B]
    kept = groups["start"] != Split.U
    assert groups["ceiling"][kept].tolist() == groups["start"][kept].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_killed_half_way_and_finished_it_ends_equal(
    study: Config, num_ranks: int, tmp_path: Path
) -> None:
    config = replace(study, output_dir=str(tmp_path / "study"))
    with pytest.raises(RanksFailed):
        run_ranks(_reproduce_until_killed, num_ranks, tmp_path, config, ARMS, timeout_seconds=400)
    killed = tmp_path / "study" / "seed-0"
    assert not (killed / "vote").exists()
    first = (killed / "none-own" / "history.jsonl").stat().st_mtime_ns
    done = run_ranks(_reproduce, num_ranks, tmp_path, config, ARMS, timeout_seconds=400)
    assert done == [""] * num_ranks
    assert (killed / "none-own" / "history.jsonl").stat().st_mtime_ns == first
    attempts = [json.loads((killed / arm / "run.json").read_text())["attempt"] for arm in ARMS]
    assert attempts == [1, 2, 1, 1, 1, 1, 1]
    assert outcomes_of(tmp_path / "study") == outcomes_of(Path(study.output_dir))


def _models_held(first: Config, second: Config) -> list[int]:
    """A body: how many models are held after each of two parts in one process."""
    from cotrain_dist.runtime.accelerator import start_runtime
    from cotrain_dist.study.parts import run_part

    held = []
    with start_runtime(first) as rt:
        for config in (first, second):
            run_part(config, rt, quiet=True)
            gc.collect()
            held.append(sum(type(thing).__name__ == "ResNet" for thing in gc.get_objects()))
    return held


@pytest.mark.slow
def test_the_models_of_a_part_are_let_go(digits_folder: Path, tmp_path: Path) -> None:
    first, second = (
        tiny_config(
            digits_folder, tmp_path / name, pretrain={"num_epochs": 1}, cotrain={"num_epochs": 1}
        )
        for name in ("first", "second")
    )
    (held,) = run_ranks(_models_held, 1, tmp_path, first, second)
    assert held == [0, 0]


@pytest.mark.slow
def test_a_new_seed_and_arm_add_to_the_table(study: Config, tmp_path: Path) -> None:
    config = replace(study, output_dir=str(tmp_path / "study"))
    assert run_ranks(_reproduce, 1, tmp_path, config, ["none-own"]) == [""]
    assert run_ranks(_reproduce, 1, tmp_path, config, ["labels-only"], (1,)) == [""]
    outcomes = outcomes_of(tmp_path / "study")
    assert {arm: sorted(by_seed) for arm, by_seed in outcomes.items() if by_seed} == {
        "start": ["0", "1"],
        "none-own": ["0"],
        "labels-only": ["1"],
    }
    assert outcomes["start"]["0"]["curve"] != outcomes["start"]["1"]["curve"]


@pytest.mark.slow
def test_another_study_is_not_continued(study: Config, tmp_path: Path) -> None:
    other = replace(study, selection=replace(study.selection, threshold=0.7))
    (error,) = run_ranks(_reproduce, 1, tmp_path, other, ARMS)
    assert error.startswith("selection.threshold: 0.7: the study in ")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").touch()
    strange = replace(study, output_dir=str(tmp_path / "full"))
    (error,) = run_ranks(_reproduce, 1, tmp_path, strange, ARMS)
    assert "exists already and holds no study" in error
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes.txt"]


@pytest.mark.slow
def test_a_seed_of_other_images_is_refused(
    study: Config, digits_folder: Path, tmp_path: Path
) -> None:
    config = replace(study, output_dir=str(tmp_path / "study"))
    assert run_ranks(_reproduce, 1, tmp_path, config, ["none-own"]) == [""]
    fewer = tmp_path / "fewer"
    shutil.copytree(digits_folder, fewer)
    next(fewer.rglob("*.png")).unlink()
    other = replace(config, data=replace(config.data, root=str(fewer)))
    (error,) = run_ranks(_reproduce, 1, tmp_path, other, ["none-own"], (1,))
    assert error.startswith(f"data.root: {fewer}: holds other images or labels than ")
    assert not (tmp_path / "study" / "seed-1" / "start").exists()


def _epochs_of(config: Config, arm: str) -> list[Any]:
    """A body: epochs of Step 1 that an arm would train, and where it would stop early."""
    from cotrain_dist.runtime.accelerator import start_runtime
    from cotrain_dist.study.reproduce import _config_of

    rt = start_runtime(config)
    pretrain = _config_of(BY_NAME[arm], config, 0, Path(config.output_dir) / "seed-0", rt).pretrain
    rt.close()
    return [pretrain.num_epochs, pretrain.stop_at_train_accuracy]


@pytest.mark.slow
def test_equal_steps_are_those_that_were_taken(study: Config, tmp_path: Path) -> None:
    """Where A and B fit their labels early, one model at equal steps trains no longer than they."""
    shutil.copytree(study.output_dir, tmp_path / "study")
    history = tmp_path / "study" / "seed-0" / "start" / "history.jsonl"
    records = [json.loads(line) for line in history.read_text().splitlines()]
    limits = {"a": 2, "b": 4}  # the longer one counts
    kept = [r for r in records if r["phase"] != "pretrain" or r["epoch"] <= limits[r["role"]]]
    history.write_text("".join(json.dumps(record) + "\n" for record in kept))
    early = replace(
        study,
        output_dir=str(tmp_path / "study"),
        pretrain=replace(study.pretrain, stop_at_train_accuracy=0.99),
    )
    steps, steps_of_both = (
        next(r["num_steps"] for r in kept if r["phase"] == "pretrain"),
        json.loads((history.parents[1] / "vote" / "history.jsonl").read_text().splitlines()[0])[
            "num_steps"
        ],
    )
    (found,) = run_ranks(_epochs_of, 1, tmp_path, early, "vote-steps")
    assert found == [math.ceil(4 * steps / steps_of_both), None]
    assert found[0] < math.ceil(6 * steps / steps_of_both)


@pytest.mark.slow
def test_a_part_that_was_begun_elsewhere_says_so(study: Config, tmp_path: Path) -> None:
    config = replace(study, output_dir=str(tmp_path / "study"))
    with pytest.raises(RanksFailed):
        run_ranks(_reproduce_until_killed, 1, tmp_path, config, ["alternate-shared"])
    moved = (tmp_path / "study").rename(tmp_path / "moved")
    (error,) = run_ranks(
        _reproduce, 1, tmp_path, replace(study, output_dir=str(moved)), ["alternate-shared"]
    )
    assert error.startswith(f"model_a.init_from: {moved}/seed-0/start/models/a: ")
    assert "was begun with" in error
    assert error.endswith("move the study back to where it was begun, or delete this part.")


@pytest.mark.slow
def test_a_study_of_an_earlier_version_is_read_and_not_continued(
    study: Config, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(study.output_dir, tmp_path / "study"))
    settings = folder / "study.yaml"
    settings.write_text(settings.read_text().removeprefix(FORMAT_LINE))
    before = outcomes_of(folder)
    shutil.rmtree(folder / "seed-0" / "ceiling")  # there was one ceiling, which is another arm now
    for name, former in (("ceiling-equal", "ceiling"), ("vote", "one-model")):
        (folder / "seed-0" / name).rename(folder / "seed-0" / former)
    report_on(replace(study, output_dir=str(folder)), quiet=True)
    after = outcomes_of(folder)
    assert after == before | {"ceiling": {}}
    assert after["ceiling-equal"]["0"]
    with pytest.raises(UserError, match="holds a study of an earlier version"):
        open_study(replace(study, output_dir=str(folder), precision="fp32"), folder)


@pytest.mark.slow
def test_report_only_writes_the_report_anew(
    study: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Path(study.output_dir) / "report.md"
    before = report.read_text()
    report.unlink()
    (report.parent / "seed-0-kept-aside").mkdir(exist_ok=True)
    # The study's own settings, not the defaults of the command line.
    assert cli.main(["reproduce", "--report_only", "--output_dir", study.output_dir]) == 0
    assert report.read_text() == before
    assert "none-shared-steps" in capsys.readouterr().out
    empty = ["--output_dir", str(tmp_path / "empty")]
    assert cli.main(["reproduce", "--report_only", *empty]) == 2
    assert "holds no finished part" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--arms", "none-own", "nonsense"], "--arms: nonsense: is no arm; choose from none-own"),
        (["--seeds", "1", "1"], "--seeds: [1, 1]: must be different whole numbers"),
        (["--seeds", "-1"], "--seeds: [-1]: must be different whole numbers"),
        (["--cotrain.optimizer", "keep"], "cotrain.optimizer: keep: does not go with a study"),
        (["--tracking", "tensorboard"], "tracking: tensorboard: does not go with a study"),
        (["--data.splits_from", "x"], "data.splits_from: x: does not go with a study"),
        (["--cotrain.num_epochs", "0"], "cotrain.num_epochs: 0: a study needs both steps"),
    ],
)
def test_mistakes(
    words: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["reproduce", "--output_dir", str(tmp_path / "study"), *words]
    assert cli.main(command) == 2
    assert f"error: {message}" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_one_seed_is_that_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    rt = mock.Mock()
    monkeypatch.setattr("cotrain_dist.training.train.start_world", lambda config: rt)
    monkeypatch.setattr("cotrain_dist.runtime.stop.end_on_signal", lambda: None)
    monkeypatch.setattr(
        "cotrain_dist.study.reproduce.reproduce", lambda config, seeds, arms, rt: seen.append(seeds)
    )
    assert cli.main(["reproduce", "--seed", "3"]) == 0
    assert cli.main(["reproduce", "--seed", "3", "--seeds", "1", "2"]) == 0
    assert seen == [[3], [1, 2]]


def _reproduce_without_labels_of_u(config: Config) -> str:
    """A body: as if no image of U had a true label."""
    with mock.patch("cotrain_dist.study.reproduce._knows_labels_of_pool", return_value=False):
        return _reproduce(config, ["ceiling"])


@pytest.mark.slow
def test_there_is_no_ceiling_without_labels_of_u(study: Config, tmp_path: Path) -> None:
    folder = Path(study.output_dir) / "seed-0"
    assert _knows_labels_of_pool(folder)
    table = load_split_table(folder / "start")
    class_ids = table.class_ids.masked_fill(table.splits == Split.U, UNKNOWN)
    unknown = replace(table, listing=replace(table.listing, class_ids=class_ids))
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "splits.parquet").write_bytes(unknown.to_parquet())
    assert not _knows_labels_of_pool(tmp_path)
    config = replace(study, output_dir=str(tmp_path / "study"))
    assert run_ranks(_reproduce_without_labels_of_u, 1, tmp_path, config) == [""]
    assert (tmp_path / "study" / "seed-0" / "start").exists()
    assert not (tmp_path / "study" / "seed-0" / "ceiling").exists()
    assert "ceiling: U has no true labels, left out" in (tmp_path / "rank-0.out").read_text()


@pytest.mark.slow
def test_the_last_report_holds_what_finished_while_it_waited(study: Config, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(study.output_dir, tmp_path / "study"))
    (folder / "results.json").unlink()  # else the old one would do
    late = (folder / "seed-0" / "vote").rename(tmp_path / "vote")
    config = replace(study, output_dir=str(folder))
    with (folder / "report.md.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        report = threading.Thread(target=report_on, args=(config,), kwargs={"quiet": True})
        report.start()
        time.sleep(1.0)
        late.rename(folder / "seed-0" / "vote")
    report.join(timeout=60)
    assert outcomes_of(folder)["vote"]


@pytest.mark.slow
def test_two_processes_side_by_side_share_the_start(study: Config, tmp_path: Path) -> None:
    """As array tasks over conditions do: one trains the common part, the other waits for it."""
    settings = tmp_path / "settings.yaml"
    settings.write_text(config_to_yaml(replace(study, output_dir=str(tmp_path / "study"))))
    command = [sys.executable, "-m", "cotrain_dist", "reproduce", "--config", str(settings)]
    both = [
        subprocess.Popen(
            [*command, "--arms", arm], env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=log
        )
        for arm, log in (("none-own", subprocess.DEVNULL), ("labels-only", subprocess.DEVNULL))
    ]
    assert [process.wait(timeout=200) for process in both] == [0, 0]
    of_seed = tmp_path / "study" / "seed-0"
    for part in ("start", "none-own", "labels-only"):
        state = json.loads((of_seed / part / "run.json").read_text())
        assert (state["attempt"], state["finished"]) == (1, True)
    reported = outcomes_of(tmp_path / "study")
    assert all(reported[part] for part in ("start", "none-own", "labels-only")), "by the last one"


@pytest.mark.slow
def test_a_part_that_another_process_holds_is_waited_for_no_longer_than_allowed(
    study: Config, tmp_path: Path
) -> None:
    limits = replace(study.distributed, wait_for_peer_seconds=1.0)
    config = replace(
        study, output_dir=str(tmp_path / "study"), distributed=limits, precision="fp32"
    )
    open_study(config, tmp_path / "study")
    (tmp_path / "study" / "seed-0").mkdir()
    with (tmp_path / "study" / "seed-0" / "start.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        (error,) = run_ranks(_reproduce, 1, tmp_path, config, ["none-own"])
    assert "another process has worked on it for 1 seconds" in error

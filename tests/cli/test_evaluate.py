"""`evaluate` and `predict` on a finished run: figures, forms of output, mistakes, worlds."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from conftest import FinishedRun
from PIL import Image
from ranks import run_ranks
from tiers import slow_but

from cotrain_dist.cli import main as cli
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.method.splits import Split

REPOSITORY = Path(__file__).parents[2]
TORCHRUN = [str(Path(sys.executable).parent / "torchrun"), "--standalone", "--nproc-per-node", "3"]
COLUMNS = ["path", "label_a", "confidence_a", "label_b", "confidence_b", "label", "confidence"]


def run_cli(arguments: list[str]) -> int:
    """A body: a command on every rank."""
    return cli.main(arguments)


def figures_of(run: FinishedRun, output: Path, *arguments: str) -> dict[str, Any]:
    """What `evaluate` writes as JSON."""
    assert cli.main(["evaluate", str(run.path), "--output", str(output), *arguments]) == 0
    found: dict[str, Any] = json.loads(output.read_text())
    return found


def last_record(run: FinishedRun) -> dict[str, Any]:
    return run.lines[-1]


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line of a user's mistake."""
    capsys.readouterr()
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    return lines[0].removeprefix("error: ")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the ranks: other numbers of threads sum in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# evaluate


@pytest.mark.parametrize(("on", "group"), [("T", "test"), ("V", "validation")])
def test_figures_are_those_of_the_history(
    finished_run: FinishedRun, on: str, group: str, tmp_path: Path
) -> None:
    figures = figures_of(finished_run, tmp_path / "out.json", "--on", on)
    for name in ("a", "b", "ensemble"):
        assert figures[name] == last_record(finished_run)[group][name]


def test_json_has_classes_and_confusions_that_add_up(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    figures = figures_of(finished_run, tmp_path / "out.json", "--most_confused", "99")
    table = load_split_table(finished_run.path)
    in_t = table.class_ids[table.sample_ids(Split.T)]
    assert figures["num_images"] == len(in_t) == 4 * 6
    assert list(figures) == ["num_images", "a", "b", "ensemble", "classes", "most_confused"]
    assert list(figures["classes"]) == ["0", "1", "2", "3"]
    for name, row in figures["classes"].items():
        assert row["num_images"] == int((in_t == int(name)).sum())
        assert set(row) == {"num_images", "a", "b", "ensemble"}
    for who in ("a", "b", "ensemble"):
        recall = [row[who] for row in figures["classes"].values()]
        assert sum(recall) / 4 == pytest.approx(figures[who]["mean_class_recall"])
    num_wrong = sum(pair["count"] for pair in figures["most_confused"])
    assert num_wrong == round((1 - figures["ensemble"]["top1"]) * 24)
    assert all(pair["class"] != pair["called"] for pair in figures["most_confused"])
    few = figures_of(finished_run, tmp_path / "few.json", "--most_confused", "1")
    assert few["most_confused"] == figures["most_confused"][:1]


def test_u_is_measured_where_labels_are_known(finished_run: FinishedRun, tmp_path: Path) -> None:
    table = load_split_table(finished_run.path)
    in_u = table.class_ids[table.sample_ids(Split.U)]
    figures = figures_of(finished_run, tmp_path / "out.json", "--on", "U")
    assert figures["num_images"] == int((in_u >= 0).sum()) < len(in_u)


def test_a_folder_of_classes_gives_the_same_figures(
    finished_run: FinishedRun, digits_table: Path, tmp_path: Path
) -> None:
    table = load_split_table(finished_run.path)
    for i in table.sample_ids(Split.T).tolist():
        folder = tmp_path / "exam" / table.class_names[table.class_ids[i]]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(digits_table.parent / table.listing.paths[i], folder)
    figures = figures_of(finished_run, tmp_path / "out.json", "--on", str(tmp_path / "exam"))
    for name in ("a", "b", "ensemble"):
        expected = last_record(finished_run)["test"][name]
        assert figures[name] == pytest.approx(expected, abs=1e-6)


def test_a_folder_of_some_classes(
    finished_run: FinishedRun, digits_table: Path, tmp_path: Path
) -> None:
    for digit in (1, 3):
        (tmp_path / "exam" / str(digit)).mkdir(parents=True)
        for index in (30, 31):
            source = digits_table.parent / "images" / f"{digit}_{index}.png"
            shutil.copy(source, tmp_path / "exam" / str(digit))
    figures = figures_of(finished_run, tmp_path / "out.json", "--on", str(tmp_path / "exam"))
    assert figures["num_images"] == 4
    assert figures["classes"]["0"] == {"num_images": 0, "a": None, "b": None, "ensemble": None}
    assert figures["classes"]["3"]["num_images"] == 2


def test_tables_for_people(finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(finished_run.path), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    top1 = f"{100 * last_record(finished_run)['test']['ensemble']['top1']:.1f}"
    for word in ("on T, in %", "top-1", "By class", "Most confused by the", top1):
        assert word in printed


def test_a_moved_table_is_found_by_its_root(
    finished_run: FinishedRun, digits_table: Path, tmp_path: Path
) -> None:
    """data.root is free for later commands; for a csv it is where the paths start."""
    moved = tmp_path / "moved"
    shutil.copytree(digits_table.parent, moved)
    figures = figures_of(finished_run, tmp_path / "out.json", "--data.root", str(moved))
    assert figures["a"] == last_record(finished_run)["test"]["a"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--on", "X"], "--on: X: is neither a split nor a folder; give T, V, U or a folder"),
        (["--on"], "command line: cotrain-dist evaluate: argument --on: expected one argument"),
        (["--most_confused", "x"], "command line: cotrain-dist evaluate: argument --most_confused"),
        (["--most_confused", "-1"], "--most_confused: -1: "),
        (["--seed", "1"], "seed: 1: cannot change in an existing run, which has 0"),
        (["--config", "x.yaml"], "--config: : does not go with a run"),
        (["--sed", "1"], "sed: 1: no such key"),
        (["--output", "{tmp}/absent/out.json"], "--output: {tmp}/absent/out.json: "),
    ],
)
def test_mistakes_of_evaluate(
    finished_run: FinishedRun,
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [word.format(tmp=tmp_path) for word in arguments]
    error = error_of(["evaluate", str(finished_run.path), *arguments], capsys)
    assert error.startswith(message.format(tmp=tmp_path))


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["evaluate", str(tmp_path)], ["predict", str(tmp_path), "x.png"]):
        rule = f"RUN: {tmp_path}: is no run directory"
        assert error_of(command, capsys).startswith(rule)


def copy_of(run: FinishedRun, folder: Path) -> Path:
    return Path(shutil.copytree(run.path, folder / "copy"))


def test_a_group_that_is_empty(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(finished_run, tmp_path)
    table = load_split_table(run)
    groups = table.splits.clone()
    groups[table.splits == Split.V] = Split.T
    (run / "splits.parquet").write_bytes(type(table)(table.listing, groups).to_parquet())
    error = error_of(["evaluate", str(run), "--on", "V"], capsys)
    assert error.startswith("--on: V: the run has no labeled image there")


def test_a_run_without_models(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(finished_run, tmp_path)
    shutil.rmtree(run / "models")
    error = error_of(["evaluate", str(run)], capsys)
    assert error.startswith(f"model_a.init_from: {run / 'models' / 'a'}: holds no saved model")


@pytest.mark.slow
def test_one_and_three_processes_give_the_same_json(
    finished_run: FinishedRun, tmp_path: Path
) -> None:
    """With a real launcher; `--on U` has the most chunks."""
    one = tmp_path / "one.json"
    figures_of(finished_run, one, "--on", "U")
    environ = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = ["evaluate", str(finished_run.path), "--on", "U", "--output", "three.json"]
    done = subprocess.run(
        [*TORCHRUN, "-m", "cotrain_dist", *command],
        cwd=tmp_path,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "three.json").read_bytes() == one.read_bytes()
    assert done.stdout.count("By class") == 1


# predict


@pytest.fixture(scope="module")
def pictures(digits_table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """25 good images in two folders, one broken, one text."""
    folder = tmp_path_factory.mktemp("pictures")
    (folder / "deep").mkdir()
    files = sorted((digits_table.parent / "images").glob("[012]_2*.png"))[:25]
    assert len(files) == 25
    for index, file in enumerate(files):
        shutil.copy(file, folder / "deep" if index % 2 else folder)
    (folder / "broken.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("no image")
    return folder


def predictions_of(run: FinishedRun, output: Path, *images: str) -> list[dict[str, Any]]:
    """What `predict` writes, read back by the ending of the file."""
    command = ["predict", str(run.path), *images, "--output", str(output)]
    assert cli.main(command) == 0
    return read_predictions(output)


def read_predictions(output: Path) -> list[dict[str, Any]]:
    if output.suffix == ".parquet":
        return list(pq.read_table(output).to_pylist())
    if output.suffix == ".jsonl":
        return [json.loads(line) for line in output.read_text().splitlines()]
    with output.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: float(v) if "confidence" in k else v for k, v in row.items()} for row in rows]


def test_every_form_has_the_same_values(
    finished_run: FinishedRun, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [
        predictions_of(finished_run, tmp_path / f"out{ending}", str(pictures))
        for ending in (".csv", ".jsonl", ".parquet")
    ]
    assert found[0] == found[1] == found[2]
    assert list(found[2][0]) == COLUMNS
    assert len(found[0]) == 25
    err = capsys.readouterr().err
    broken = pictures / "broken.png"
    assert err.count(f"skipped: {broken} cannot be read as an image") == 3
    assert err.count("labeled 25 images, skipped 1") == 3
    capsys.readouterr()
    assert cli.main(["predict", str(finished_run.path), str(pictures)]) == 0
    assert capsys.readouterr().out == (tmp_path / "out.csv").read_text()


def test_predictions_are_those_of_the_models(
    finished_run: FinishedRun, pictures: Path, tmp_path: Path
) -> None:
    """A at 16 and B at 32 pixels, through timm's own reading of what was saved."""
    import timm

    rows = predictions_of(finished_run, tmp_path / "out.jsonl", str(pictures))
    probs = {}
    for name in ("a", "b"):
        folder = finished_run.path / "models" / name
        model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
        images = [transform(Image.open(row["path"]).convert("RGB")) for row in rows]
        with torch.no_grad():
            probs[name] = model(torch.stack(images)).softmax(dim=1)
    probs[""] = (probs["a"] + probs["b"]) / 2
    for name, values in probs.items():
        end = f"_{name}" if name else ""
        tops = values.max(dim=1)
        found = torch.tensor([row[f"confidence{end}"] for row in rows])
        torch.testing.assert_close(found, tops.values, atol=1e-4, rtol=1e-4)
        assert [row[f"label{end}"] for row in rows] == [str(i) for i in tops.indices.tolist()]


def test_files_folders_and_globs(finished_run: FinishedRun, pictures: Path, tmp_path: Path) -> None:
    files = sorted(map(str, pictures.glob("[012]*.png")))
    deep = sorted(map(str, (pictures / "deep").glob("*.png")))
    cases = [
        ([files[2], files[0]], [files[2], files[0]]),
        ([str(pictures / "deep")], deep),
        ([str(pictures / "deep" / "*.png")], deep),
        ([str(pictures / "**" / "[0-9]*.png")], sorted(files + deep)),
        ([files[0], files[0], str(pictures / "[01]*.png")], None),
    ]
    for index, (images, expected) in enumerate(cases):
        rows = predictions_of(finished_run, tmp_path / f"{index}.csv", *images)
        paths = [row["path"] for row in rows]
        assert len(paths) == len(set(paths)) > 0
        if expected is not None:
            assert paths == expected


def test_settings_may_stand_before_the_images_with_an_equals_sign(
    finished_run: FinishedRun, pictures: Path, tmp_path: Path
) -> None:
    rows = predictions_of(finished_run, tmp_path / "x.csv", "--device=cpu", str(pictures / "deep"))
    assert len(rows) == 12


@pytest.mark.parametrize("settings", [["--device", "cpu"], ["--device=cpu"]])
def test_settings_may_stand_before_the_run(
    finished_run: FinishedRun, pictures: Path, tmp_path: Path, settings: list[str]
) -> None:
    """The value of a setting is no image."""
    output = str(tmp_path / "x.csv")
    words = [*settings, "--output", output, str(finished_run.path), str(pictures / "deep")]
    assert cli.main(["predict", *words]) == 0
    assert len(Path(output).read_text().splitlines()) == 1 + 12


def test_nothing_but_broken_files(
    finished_run: FinishedRun, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", str(finished_run.path), str(pictures / "broken.png")]) == 1
    assert "labeled 0 images, skipped 1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "output", "message"),
    [
        (["{pictures}"], "there.csv", "--output: {tmp}/there.csv: exists already; name another"),
        (["{pictures}"], "out.txt", "--output: {tmp}/out.txt: must end in .csv or .jsonl or"),
        (["{pictures}"], "out", "--output: {tmp}/out: must end in .csv"),
        (["{pictures}"], "absent/out.csv", "--output: {tmp}/absent/out.csv: "),
        (["{pictures}"], "absent/out.parquet", "--output: {tmp}/absent/out.parquet: "),
        (["{tmp}/nope*.png"], "out.csv", "IMAGES: {tmp}/nope*.png: matches no image"),
        (["{pictures}", "{tmp}/gone.png"], "out.csv", "IMAGES: {tmp}/gone.png: matches no image"),
        (["{tmp}/hollow"], "out.csv", "IMAGES: {tmp}/hollow: matches no image"),
    ],
)
def test_mistakes_of_predict(
    finished_run: FinishedRun,
    pictures: Path,
    images: list[str],
    output: str,
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "there.csv").write_text("mine")
    (tmp_path / "hollow").mkdir()
    names = {"pictures": str(pictures), "tmp": str(tmp_path)}
    command = ["predict", str(finished_run.path), *(image.format(**names) for image in images)]
    error = error_of([*command, "--output", str(tmp_path / output)], capsys)
    assert error.startswith(message.format(**names))
    assert (tmp_path / "there.csv").read_text() == "mine"
    # What is left behind would be refused the next time.
    assert sorted(p.name for p in tmp_path.iterdir()) == ["hollow", "there.csv"]


def test_no_images_at_all(finished_run: FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(["predict", str(finished_run.path)], capsys)
    assert re.match("command line: cotrain-dist predict: .*required: images", error)


@pytest.mark.parametrize("ending", slow_but([".csv"], [".csv", ".jsonl", ".parquet"]))
def test_one_and_three_processes_give_the_same_file(
    finished_run: FinishedRun, pictures: Path, ending: str, tmp_path: Path
) -> None:
    files = {}
    for num_ranks in (1, 3):
        output = tmp_path / f"{num_ranks}{ending}"
        command = ["predict", str(finished_run.path), str(pictures), "--output", str(output)]
        assert run_ranks(run_cli, num_ranks, tmp_path, command) == [0] * num_ranks
        files[num_ranks] = output.read_bytes()
    assert files[1] == files[3]
    assert len(read_predictions(output)) == 25
    printed = [(tmp_path / f"rank-{rank}.out").read_text() for rank in range(3)]
    assert [text.count("skipped: ") for text in printed] == [2, 0, 0]  # of both worlds


def test_a_mistake_of_predict_ends_every_rank(finished_run: FinishedRun, tmp_path: Path) -> None:
    command = ["predict", str(finished_run.path), str(tmp_path / "nope.png")]
    assert run_ranks(run_cli, 2, tmp_path, command, timeout_seconds=60) == [2, 2]
    command = ["evaluate", str(finished_run.path), "--on", "X"]
    assert run_ranks(run_cli, 2, tmp_path, command, timeout_seconds=60) == [2, 2]

"""`annotate RUN`: the gallery that corrects, in a real browser, and the training that takes it."""

import csv
import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from browser import complaints, open_browser
from PIL import Image
from ranks import tiny_config, train_run
from test_annotate import Client

from cotrain_dist.cli import main as cli
from cotrain_dist.config import Config, DataConfig
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.inference.seen import Seen, Tile
from cotrain_dist.method.gallery import A_TEACHES, BOTH_WRONG, UNSURE
from cotrain_dist.method.splits import Split
from cotrain_dist.reporting.corrector import Corrector, open_answers

CONFIG = Config(data=DataConfig(source="digits"))

NAMES = ("cat", "dog", "<b>&bird")


def _tile(kind: str, path: str, truth: str | None = None) -> Tile:
    return Tile(kind, path, truth, "cat", "dog", 0.91, 0.42, b"jpeg of " + path.encode())


SEEN = Seen(
    NAMES,
    "",
    None,
    None,
    [],
    [
        _tile(A_TEACHES, "=1.png"),
        _tile(A_TEACHES, "2.png"),
        _tile(UNSURE, "2.png"),
        _tile(BOTH_WRONG, "3.png", "<b>&bird"),
    ],
)


def labels_in(table: Path) -> dict[str, str]:
    with table.open(newline="") as file:
        return {row["path"]: row["label"] for row in csv.DictReader(file)}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[Client]:
    answers = open_answers(tmp_path / "answers.csv", SEEN, CONFIG)
    with Corrector(answers, SEEN) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield Client(server)
        server.shutdown()
        thread.join()


def test_an_image_stands_once_with_all_its_kinds(client: Client) -> None:
    state = json.loads(client.ask("state")[1])
    assert [row["path"] for row in state["rows"]] == ["=1.png", "2.png", "3.png"]
    assert state["rows"][1]["kinds"] == [A_TEACHES, UNSURE]
    assert list(state["kinds"]) == [A_TEACHES, UNSURE, BOTH_WRONG]
    assert state["classes"] == list(NAMES)
    assert client.ask("image/1/small") == (200, b"jpeg of 2.png")
    assert client.ask("image/3/small")[0] == 404
    assert b"<title>Correct labels" in client.ask("")[1]


@pytest.mark.parametrize(
    ("row", "label", "error"),
    [
        (0, "dog", ""),
        (0, "", ""),
        (2, "<b>&bird", ""),
        (2, "", ""),
        (0, "cow", "the run has no class cow: train a new run for a new class"),
        (2, "dog", "the data call this image <b>&bird: correct it there"),
    ],
)
def test_only_what_a_training_takes_is_an_answer(
    row: int, label: str, error: str, client: Client, tmp_path: Path
) -> None:
    status, told = client.ask("answer", {"row": row, "label": label})
    assert (status, json.loads(told)) == ((409, {"error": error}) if error else (200, {}))
    found = list(labels_in(tmp_path / "answers.csv").values())
    assert found == ["" if error or i != row else label for i in range(3)]


def test_answers_that_stand_there_stay_and_new_images_come_behind(tmp_path: Path) -> None:
    file = tmp_path / "answers.csv"
    file.write_text("note,path,label\nmine,2.png,dog\n,old.png,cat\n")
    answers = open_answers(file, SEEN, CONFIG)
    assert labels_in(file) == {"2.png": "dog", "old.png": "cat", "'=1.png": "", "3.png": ""}
    assert file.read_text().startswith("note,path,label\nmine,2.png,dog\n")
    with Corrector(answers, SEEN) as server:
        rows = server.state()["rows"]
        assert [(row["path"], row["label"]) for row in rows] == [
            *(("=1.png", ""), ("2.png", "dog"), ("3.png", ""))
        ]
        assert "not in the gallery any more" in server.objection(1, "cat")


@pytest.fixture(scope="module")
def run(
    digits_table: Path, starts: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run of heads; most of its images have no label. Do not change it."""
    folder = tmp_path_factory.mktemp("corrected")
    start = {"name": None, "pretrained": starts["a"], "train": "head"}
    config = tiny_config(
        digits_table.parent,
        folder / "run",
        data={
            **{"source": "csv", "root": None, "table": str(digits_table)},
            **{"feature_cache": str(folder / "cache"), "labeled_per_class": None},
            **{"test_per_class": 6, "image_size": 32},
        },
        model_a=start,
        model_b=start | {"pretrained": starts["b"]},
        labels="shared",
        pretrain={"num_epochs": 1, "labels": "shared"},
        cotrain={"num_epochs": 1},
    )
    train_run(config)
    return folder / "run"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["{run}"], "--output: (none): a run is never written over; give a file"),
        (["{run}", "--output", "{tmp}/a.txt"], "--output: {tmp}/a.txt: must end in .csv"),
        (["{run}", "--output", "{tmp}/a.csv", "--each", "0"], "--each: 0: must be at least 1"),
        (["{run}", "--output", "{tmp}/a.csv", "--audit"], "--audit: : is known, or of no use"),
        (["{tmp}", "--output", "{tmp}/a.csv"], "RUN: {tmp}: is no run directory"),
        (["{tmp}/other.csv", "--output", "{tmp}/a.csv"], "--output: : does not go with"),
        (["{tmp}/other.csv", "--device", "cpu"], "--device: : does not go with"),
        (["{run}", "--output", "{tmp}/other.csv"], "data.path_column: path: "),
    ],
)
def test_mistakes(
    words: list[str],
    error: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    places = {"run": run, "tmp": tmp_path}
    assert cli.main(["annotate", *(word.format(**places) for word in words)]) == 2
    told = capsys.readouterr().err
    assert error.format(**places) in told, told
    assert told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["other.csv"]
    assert (tmp_path / "other.csv").read_text() == "a,b\n1,2\n"


def test_a_launcher_is_refused_and_so_is_a_run_without_u(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["annotate", str(run), "--output", str(tmp_path / "a.csv")]
    monkeypatch.setattr(
        "cotrain_dist.inference.seen.look_at_pool", lambda *_: Seen(NAMES, "", None, None, [], [])
    )
    assert cli.main(words) == 2
    assert f"RUN: {run}: has no image without a label" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.main(words) == 2
    assert "WORLD_SIZE: 2: one process shows the page" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def _start(run: Path, output: Path) -> "tuple[subprocess.Popen[str], str]":
    words = ["annotate", str(run), "--output", str(output), "--each", "6", "--no_browser"]
    started = subprocess.Popen(
        [sys.executable, "-m", "cotrain_dist", *words], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    for line in started.stdout:
        if line.startswith("open http"):
            return started, line.split()[1]
    raise AssertionError(f"it ended with {started.wait()}")


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_label_is_corrected_by_keyboard_and_the_next_training_learns_it(
    scheme: str, run: Path, tmp_path: Path
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    table, num_saved = tmp_path / "answers.csv", 0
    started, url = _start(run, table)
    with open_browser(scheme) as browser:

        def press(*keys: str, saves: int = 0) -> None:
            nonlocal num_saved
            ActionChains(browser).send_keys(*keys).perform()
            num_saved += saves
            saved = "return Number(document.body.dataset.saved || 0)"
            WebDriverWait(browser, 10).until(lambda _: browser.execute_script(saved) == num_saved)

        def open_page() -> None:
            nonlocal num_saved
            browser.get(url)
            num_saved = 0
            loaded = "return document.querySelector('#tiles img').naturalWidth > 0"
            WebDriverWait(browser, 10).until(
                lambda _: (
                    browser.find_elements(By.CSS_SELECTOR, "#tiles button")
                    and browser.execute_script(loaded)
                )
            )

        def answered() -> list[str]:
            return [label for label in labels_in(table).values() if label]

        open_page()
        tiles = browser.find_elements(By.CSS_SELECTOR, "#tiles button")
        a, b = (tiles[0].find_element(By.CLASS_NAME, role).text.split()[1] for role in ("a", "b"))
        press("a", saves=1)
        assert answered() == [a]
        press(Keys.ARROW_LEFT, "b", saves=1)
        assert answered() == [b]
        press("u", saves=1)
        assert answered() == [a]
        press(Keys.ARROW_RIGHT, "c")
        press("2", Keys.ENTER, saves=1)
        assert answered() == [a, "2"]
        press("c")
        press("cow", Keys.ENTER, saves=1)
        assert "no class cow" in browser.find_element(By.ID, "told").text
        assert answered() == [a, "2"]

        open_page()  # again: the answers are there, and the last ones can still be taken back
        assert browser.find_element(By.ID, "count").text.startswith("2 of ")
        press("u", saves=1)
        assert answered() == [a]
        tiles = browser.find_elements(By.CSS_SELECTOR, "#tiles button")
        for name in ("kind", "class"):
            control = browser.find_element(By.ID, name)
            control.send_keys(Keys.ARROW_DOWN)
            num = sum(tile.is_displayed() for tile in tiles)
            assert 0 < num < len(tiles)
            assert browser.find_element(By.ID, "count").text.endswith(f"; {num} shown")
            control.send_keys(Keys.HOME)
        hide = "document.querySelectorAll('#tiles button').forEach(own => own.hidden = true)"
        browser.execute_script(hide)
        browser.find_element(By.ID, "open").send_keys("b")  # of an image that is not to be seen
        assert answered() == [a]
        width = "return document.documentElement.scrollWidth <= innerWidth"
        assert browser.execute_script(width)
        # The browser names what the server has refused, which is no fault of the page.
        assert [line for line in complaints(browser) if "409" not in line["message"]] == []
        browser.find_element(By.ID, "stop").click()
        printed, _ = started.communicate(timeout=20)
    assert started.returncode == 0
    assert f"{table}: 1 answers, for train --recycle {run} --extra-labels {table}" in printed

    if scheme == "dark":
        return
    again = tmp_path / "again"
    words = ["--recycle", str(run), "--extra-labels", str(table), "--output_dir", str(again)]
    assert cli.main(["train", *words]) == 0
    before, after = load_split_table(run), load_split_table(again)
    (path,) = (path for path, label in labels_in(table).items() if label)
    sample_id = after.listing.paths.index(path)
    assert before.splits[sample_id] == Split.U
    assert after.splits[sample_id] in (Split.L_A, Split.L_B)
    assert after.class_names[after.class_ids[sample_id]] == a
    changed = (before.splits != after.splits).nonzero().flatten()
    assert torch.equal(changed, torch.tensor([sample_id]))


@pytest.mark.slow
def test_a_signal_ends_it_and_its_images_are_large_enough(run: Path, tmp_path: Path) -> None:
    from io import BytesIO
    from urllib.request import urlopen

    started, url = _start(run, tmp_path / "answers.csv")
    assert cli.main(["annotate", str(run), "--output", str(tmp_path / "answers.csv")]) == 2
    with urlopen(f"{url}image/0/small", timeout=10) as answer:
        assert 0 < max(Image.open(BytesIO(answer.read())).size) <= 320
    started.send_signal(signal.SIGTERM)
    printed, _ = started.communicate(timeout=20)
    assert started.returncode == 0
    assert "0 answers" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["answers.csv"]

"""`annotate FILE.csv`: the page's server, who it answers, and the page in a real browser."""

import csv
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from browser import complaints, open_browser
from PIL import Image

from cotrain_dist.cli import main as cli
from cotrain_dist.config import DataConfig
from cotrain_dist.data.answers import Answers
from cotrain_dist.reporting.annotator import Annotator

NUM_IMAGES = 5


@pytest.fixture
def table(digits_folder: Path, tmp_path: Path) -> Path:
    """A table of five images, beside them; one has a name that is markup."""
    files = sorted((digits_folder / "digit_3").iterdir())[:NUM_IMAGES]
    names = [f"{place}.png" for place in range(NUM_IMAGES - 1)] + ["<b>&4.png"]
    for file, name in zip(files, names, strict=True):
        shutil.copy(file, tmp_path / name)
    rows = "".join(f"{name},\n" for name in names)
    (tmp_path / "labels.csv").write_text(f"path,label\n{rows}")
    return tmp_path / "labels.csv"


def labels_in(table: Path) -> list[str]:
    with table.open(newline="") as file:
        return [row["label"] for row in csv.DictReader(file)]


@dataclass
class Client:
    """Asks the server as a browser does, unless told otherwise."""

    server: Annotator

    def ask(
        self, path: str, value: object = None, *, token: str | None = None, **headers: str
    ) -> tuple[int, bytes]:
        port = urlsplit(self.server.url).port
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        body = None if value is None else json.dumps(value)
        given = {"Content-Type": "application/json"} if body else {}
        given |= {name.replace("_", "-"): text for name, text in headers.items()}
        own = self.server.token if token is None else token
        connection.request("POST" if body else "GET", f"/{own}/{path}", body, given)
        answer = connection.getresponse()
        found = answer.status, answer.read()
        connection.close()
        return found


@pytest.fixture
def client(table: Path) -> Iterator[Client]:
    answers = Answers(table, DataConfig(source="digits"))
    with Annotator(answers, table.parent, ["three", "eight"], is_audit=True) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield Client(server)
        server.shutdown()
        thread.join()


def test_answers_go_to_the_table_and_the_state_says_so(client: Client, table: Path) -> None:
    status, page = client.ask("")
    assert status == 200
    assert b"<title>Label images" in page
    assert client.ask("answer", {"row": 2, "label": "nine"}) == (200, b"{}")
    assert client.ask("answer", {"row": 0, "label": "?"}) == (200, b"{}")
    assert labels_in(table) == ["?", "", "nine", "", ""]
    state = json.loads(client.ask("state")[1])
    assert state["classes"] == ["three", "eight", "nine"]
    assert [row["label"] for row in state["rows"]] == labels_in(table)
    for size, side in (("large", 720), ("small", 160)):
        status, content = client.ask(f"image/0/{size}")
        assert status == 200
        assert max(Image.open(BytesIO(content)).size) <= side


@pytest.mark.parametrize(
    ("path", "value", "headers", "status"),
    [
        ("state", None, {"token": "guess"}, 403),
        ("state", None, {"token": ""}, 403),
        ("answer", {"row": 0, "label": "x"}, {"token": "guess"}, 403),
        ("state", None, {"Host": "evil.example"}, 403),
        ("answer", {"row": 0, "label": "x"}, {"Origin": "http://evil.example"}, 403),
        ("answer", {"row": 0, "label": "x"}, {"Content_Type": "text/plain"}, 400),
        ("answer", {"row": 5, "label": "x"}, {}, 400),
        ("answer", {"row": -1, "label": "x"}, {}, 400),
        ("answer", {"row": True, "label": "x"}, {}, 400),
        ("answer", {"row": 0, "label": "a\nb"}, {}, 400),
        ("answer", {"row": 0, "label": "x" * 201}, {}, 400),
        ("answer", {"row": 0, "label": "x" * 20_000}, {}, 400),
        ("answer", ["no", "object"], {}, 400),
        ("elsewhere", None, {}, 404),
        ("elsewhere", {}, {}, 404),
        ("image/5/large", None, {}, 404),
        ("image/../labels.csv/large", None, {}, 404),
        ("../labels.csv", None, {}, 404),
    ],
)
def test_who_is_refused(
    path: str, value: object, headers: dict[str, str], status: int, client: Client, table: Path
) -> None:
    before = table.read_bytes()
    assert client.ask(path, value, **headers)[0] == status  # type: ignore[arg-type]
    assert table.read_bytes() == before
    assert client.ask("state")[0] == 200


def test_it_listens_on_this_machine_alone(client: Client) -> None:
    assert client.server.socket.getsockname()[0] == "127.0.0.1"


def test_what_an_editor_has_written_meanwhile_stays(client: Client, table: Path) -> None:
    table.write_text(table.read_text().replace("0.png,", "0.png,mine"))
    status, told = client.ask("answer", {"row": 1, "label": "x"})
    assert status == 409
    assert b"another program has written the table" in told
    assert labels_in(table) == ["mine", "", "", "", ""]


def test_an_image_that_has_gone_or_a_full_disk_is_told(
    client: Client, table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (table.parent / "0.png").unlink()
    (table.parent / "1.png").write_text("no image")
    assert client.ask("image/0/large")[0] == 404
    assert client.ask("image/1/large")[0] == 404

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cotrain_dist.store.atomic.write_bytes", refuse)
    status, told = client.ask("answer", {"row": 1, "label": "x"})
    assert (status, json.loads(told)) == (507, {"error": "not saved: No space left on device"})


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["{tmp}/none.csv"], "FILE: {tmp}/none.csv: cannot be read"),
        (["{table}", "--images", "{tmp}/no"], "--images: {tmp}/no: is no folder"),
        (["{table}", "--port", "70000"], "--port: 70000: must lie between"),
        (["{table}", "--port", "{taken}"], "--port: {taken}: cannot be listened at (Address alr"),
        (["{table}", "--classes", "a\tb"], "--classes: 'a\\tb': is no name"),
        (["{table}", "--images", "{tmp}/empty"], "(5 of 5 are missing); give the folder"),
    ],
)
def test_mistakes(
    words: list[str], error: str, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = table.read_bytes()
    (table.parent / "empty").mkdir()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        places = {"table": table, "tmp": table.parent, "taken": taken.getsockname()[1]}
        assert cli.main(["annotate", *(word.format(**places) for word in words)]) == 2
        told = capsys.readouterr().err
        assert error.format(**places) in told, told
        assert told.count("\n") == 1
    assert table.read_bytes() == before


def test_a_path_that_leads_elsewhere_is_named_too(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table.write_text("path,label\n/nowhere/x.png,\n")
    assert cli.main(["annotate", str(table), "--no_browser"]) == 2
    assert "does not hold /nowhere/x.png (1 of 1 are missing)" in capsys.readouterr().err


def _start(table: Path, *further: str) -> "tuple[subprocess.Popen[str], str]":
    words = ["annotate", str(table), "--classes", "three", "eight", "--no_browser", *further]
    started = subprocess.Popen(
        [sys.executable, "-m", "cotrain_dist", *words], stdout=subprocess.PIPE, text=True
    )
    assert started.stdout is not None
    return started, started.stdout.readline().split()[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_page_for_one_table_is_refused_and_a_signal_ends_the_first(
    number: int, table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started, _ = _start(table)
    assert cli.main(["annotate", str(table), "--no_browser"]) == 2
    assert "is being labeled already, on another page" in capsys.readouterr().err
    started.send_signal(number)
    printed, _ = started.communicate(timeout=20)
    assert started.returncode == 0
    assert printed == f"{table}: 0 of 5 images are answered\n"
    assert not list(table.parent.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_person_labels_with_keys_undoes_reloads_and_ends(scheme: str, table: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    started, url = _start(table, "--audit")
    with open_browser(scheme) as browser:
        num_saved = 0

        def press(*keys: str, saves: int = 0) -> None:
            nonlocal num_saved
            ActionChains(browser).send_keys(*keys).perform()
            num_saved += saves
            saved = "return Number(document.body.dataset.saved || 0)"
            WebDriverWait(browser, 10).until(lambda _: browser.execute_script(saved) == num_saved)

        def open_page() -> None:
            browser.get(url)
            loaded = "return document.getElementById('image').naturalWidth > 0"
            WebDriverWait(browser, 10).until(lambda _: browser.execute_script(loaded))

        open_page()
        press("1", saves=1)
        press("2", saves=1)
        press("?", saves=1)
        assert labels_in(table) == ["three", "eight", "?", "", ""]
        press("u", "u", saves=2)
        assert labels_in(table) == ["three", "", "", "", ""]
        press("n")
        press("nine <b>", Keys.ENTER, saves=1)
        assert labels_in(table) == ["three", "nine <b>", "", "", ""]

        open_page()  # again: it begins where no answer is
        num_saved = 0
        assert "2 of 5 answered; image 3" in browser.find_element(By.ID, "count").text
        press("3", saves=1)
        press(Keys.ARROW_LEFT, Keys.DELETE, saves=1)
        assert labels_in(table) == ["three", "nine <b>", "", "", ""]
        press("g")
        tiles = browser.find_elements(By.CSS_SELECTOR, "#grid button")
        assert [tile.text for tile in tiles] == ["three", "nine <b>", *["no answer"] * 3]
        tiles[4].send_keys(Keys.ENTER)
        assert browser.find_element(By.ID, "path").text == "<b>&4.png"
        width = "return document.documentElement.scrollWidth <= innerWidth"
        assert browser.execute_script(width)
        assert complaints(browser) == []
        browser.find_element(By.ID, "stop").click()
        printed, _ = started.communicate(timeout=20)
    assert started.returncode == 0
    assert printed == f"{table}: 2 of 5 images are answered\n"


@pytest.mark.slow
def test_outside_of_an_audit_a_question_mark_is_no_answer(table: Path) -> None:
    """A training would take it for a class."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    started, url = _start(table)
    with open_browser() as browser:
        browser.get(url)
        count = "return document.getElementById('count').textContent"
        WebDriverWait(browser, 10).until(lambda _: browser.execute_script(count))
        assert not browser.find_element(By.ID, "unknown").is_displayed()
        ActionChains(browser).send_keys("?", "1").perform()
        saved = "return document.body.dataset.saved"
        WebDriverWait(browser, 10).until(lambda _: browser.execute_script(saved) == "1")
        assert labels_in(table) == ["three", "", "", "", ""]
        browser.find_element(By.ID, "stop").click()
        started.communicate(timeout=20)
    assert started.returncode == 0


@pytest.mark.slow
def test_an_image_that_stands_for_others_says_so_and_answers_for_them(table: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    table.write_text("path,label,same_as\n0.png,,\n1.png,,0.png\n2.png,,0.png\n3.png,,\n")
    started, url = _start(table)
    with open_browser() as browser:

        def press(key: str, num_saved: str) -> None:
            ActionChains(browser).send_keys(key).perform()
            saved = "return document.body.dataset.saved"
            WebDriverWait(browser, 10).until(lambda _: browser.execute_script(saved) == num_saved)

        browser.get(url)
        told = "return document.getElementById('same').textContent"
        WebDriverWait(browser, 10).until(
            lambda _: browser.execute_script(told) == "stands for 2 more"
        )
        press("2", "1")
        assert labels_in(table) == ["eight", "eight", "eight", ""]
        assert browser.find_element(By.ID, "path").text == "3.png"
        assert browser.execute_script(told) == ""
        press("u", "2")
        assert labels_in(table) == [""] * 4
        assert complaints(browser) == []
        browser.find_element(By.ID, "stop").click()
        printed, _ = started.communicate(timeout=20)
    assert printed == f"{table}: 0 of 2 images are answered\n"

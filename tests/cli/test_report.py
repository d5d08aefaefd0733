"""`report RUN...`: the file for finished and unfinished runs, and in a real browser."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import complaints, open_browser
from ranks import run_ranks, tiny_config, train_run

from cotrain_dist.cli import main as cli


@pytest.fixture(scope="module")
def run(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of one epoch of Step 2. Do not change it."""
    folder = tmp_path_factory.mktemp("reported")
    config = tiny_config(digits_folder, folder / "run", cotrain={"keep_step_one": True})
    run_ranks(train_run, 1, folder, config)
    return folder / "run"


def _report(words: list[str]) -> int:
    """A body: the command."""
    return cli.main(["report", *words])


def test_a_run_is_shown_with_its_images(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.html"
    assert cli.main(["report", str(run), "--output", str(file), "--images", "2"]) == 0
    assert f"{file}: open it in a browser" in capsys.readouterr().out
    page = file.read_text()
    last = json.loads((run / "history.jsonl").read_text().splitlines()[-1])
    notes = json.loads((run / "models/best/config.json").read_text())["cotrain_dist"]
    assert f"models/best ({notes['role'].upper()}), is right for" in page
    assert f"{100 * last['test']['ensemble']['top1']:.1f}"[:2] in page
    num_tiles = page.count("<figure ")
    assert 4 <= num_tiles <= 10
    assert page.count("data:image/jpeg;base64,") == num_tiles
    assert "Share of each class on T that both models together" in page
    assert "labels alone" in page  # of both models of Step 1, which the run has kept
    assert cli.main(["report", str(run), "--output", str(file), "--images", "0"]) == 0
    assert "<figure " not in file.read_text()


def test_several_runs_stand_side_by_side_and_one_may_be_at_its_start(
    run: Path, tmp_path: Path
) -> None:
    other, file = tmp_path / "other", tmp_path / "report.html"
    shutil.copytree(run, other)
    (other / "history.jsonl").write_text("")
    shutil.rmtree(other / "models")
    assert cli.main(["report", str(run), str(other), "--output", str(file)]) == 0
    page = file.read_text()
    assert f"{other}: finished; nothing was measured so far." in page
    assert page.split("</table>")[0].count("<tr><td>") == 2
    assert cli.main(["report", str(other), "--output", str(file)]) == 0
    assert "<figure " not in file.read_text()


@pytest.mark.slow
def test_two_ranks_write_the_page_of_one(run: Path, tmp_path: Path) -> None:
    pages = []
    for num_ranks in (1, 2):
        file = tmp_path / f"{num_ranks}.html"
        run_ranks(_report, num_ranks, tmp_path, [str(run), "--output", str(file)])
        pages.append(file.read_text())
    assert pages[0] == pages[1]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (
            ["{run}", "--output", "{tmp}/report.txt"],
            "--output: {tmp}/report.txt: must end in .html",
        ),
        (
            ["{run}", "--output", "{tmp}/no/r.html"],
            "--output: {tmp}/no/r.html: its folder does not",
        ),
        (["{run}", "--output", "{tmp}/r.html", "--images", "-1"], "--images: -1: must not be neg"),
        (["{run}", "--output", "{tmp}/r.html", "--images", "101"], "--images: 101: would make a"),
        (["{run}", "{run}", "--output", "{tmp}/r.html"], "RUN: {run}: is named twice"),
        (["{tmp}", "--output", "{tmp}/r.html"], "RUN: {tmp}: "),
        (["{run}"], "the following arguments are required: --output"),
    ],
)
def test_mistakes(
    words: list[str],
    error: str,
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"run": run, "tmp": tmp_path}
    assert cli.main(["report", *(word.format(**places) for word in words)]) == 2
    told = capsys.readouterr().err
    assert error.format(**places) in told, told
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


LIGHT = ["rgb(255, 255, 255)", "rgb(27, 27, 31)"]
DARK = ["rgb(23, 23, 27)", "rgb(236, 236, 241)"]


def _colors(browser: Any) -> list[str]:
    """Of the page and of the text in its charts."""
    colors: list[str] = browser.execute_script(
        "return [getComputedStyle(document.body).backgroundColor,"
        " getComputedStyle(document.querySelector('.chart svg text')).fill]"
    )
    return colors


@pytest.fixture(params=["light", "dark"])
def browser(request: pytest.FixtureRequest) -> Iterator[Any]:
    with open_browser(request.param) as driver:
        yield driver


@pytest.mark.slow
def test_it_works_in_a_browser_by_keyboard_without_an_error(
    run: Path, tmp_path: Path, browser: Any
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    file = tmp_path / "report.html"
    assert cli.main(["report", str(run), "--output", str(file)]) == 0
    browser.get(file.as_uri())
    num_charts = len(browser.find_elements(By.CLASS_NAME, "chart"))
    assert num_charts >= 5
    drawn = "return document.querySelectorAll('.chart svg').length"
    WebDriverWait(browser, 30).until(lambda _: browser.execute_script(drawn) == num_charts)
    # Of a phone's width nothing is cut off.
    width = "return document.documentElement.scrollWidth <= innerWidth"
    assert browser.execute_script(width)

    def shown() -> int:
        tiles = browser.find_elements(By.CSS_SELECTOR, "#tiles figure")
        num = sum(tile.is_displayed() for tile in tiles)
        assert browser.find_element(By.ID, "shown").text.split()[0] == str(num)
        return num

    num_tiles = shown()
    assert num_tiles == len(browser.find_elements(By.CSS_SELECTOR, "#tiles figure")) > 20
    for name in ("kind", "class"):
        control = browser.find_element(By.ID, name)
        control.send_keys(Keys.ARROW_DOWN)
        assert 0 < shown() < num_tiles
        control.send_keys(Keys.HOME)
        assert shown() == num_tiles
    browser.find_element(By.ID, "sure").send_keys(Keys.END)
    assert shown() < num_tiles
    assert complaints(browser) == []
    is_dark = browser.execute_script("return matchMedia('(prefers-color-scheme: dark)').matches")
    assert _colors(browser) == (DARK if is_dark else LIGHT)
    # On paper it is light, whatever the screen shows.
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    assert _colors(browser) == LIGHT
    assert not browser.find_element(By.ID, "filter").is_displayed()
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert len(browser.get_screenshot_as_png()) > 10_000

"""Progress: plain lines without a terminal, a bar on one, and silence off the lead rank."""

import logging
from io import StringIO
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from cotrain_dist.runtime import progress
from cotrain_dist.runtime.progress import Reporter


def use_everything(reporter: Reporter) -> None:
    reporter.say("cotrain 1/20: T A 51.0% [bold]")
    reporter.warn("R_A is empty")
    reporter.remember("T A 51.0%")
    with reporter.track("cotrain 1: train A", 128) as advance:
        advance(64)
        advance(64)
    reporter.print(Text("a table"))


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    use_everything(Reporter(show=True))
    assert capsys.readouterr().out.splitlines() == [
        "cotrain 1/20: T A 51.0% [bold]",
        "warning: R_A is empty",
        "a table",
    ]


def test_long_lines_are_not_wrapped(capsys: pytest.CaptureFixture[str]) -> None:
    line = "word " * 60 + "end"
    Reporter(show=True).say(line)
    assert capsys.readouterr().out == line + "\n"


def test_other_ranks_print_nothing_and_log_all(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, logger="cotrain_dist"):
        use_everything(Reporter(show=False))
    assert capsys.readouterr() == ("", "")
    assert [(r.levelname, r.getMessage()) for r in caplog.records] == [
        ("INFO", "cotrain 1/20: T A 51.0% [bold]"),
        ("WARNING", "R_A is empty"),
    ]


def test_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    file = StringIO()

    def terminal(**options: Any) -> Console:
        return Console(
            file=file, force_terminal=True, width=120, _environ={"TERM": "xterm"}, **options
        )

    monkeypatch.setattr(progress, "build_console", terminal)
    reporter = Reporter(show=True)
    use_everything(reporter)
    text = file.getvalue()
    assert "cotrain 1: train A" in text
    assert " images/s" in text
    assert text.count("T A 51.0%") >= 2  # as a line, and behind the bar
    assert "warning: R_A is empty" in text


def test_error_inside_a_bar_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        progress, "build_console", lambda: Console(file=StringIO(), force_terminal=True)
    )
    reporter = Reporter(show=True)

    def fail_inside() -> None:
        with reporter.track("train", 10) as advance:
            advance(1)
            raise RuntimeError("loss")

    with pytest.raises(RuntimeError, match="loss"):
        fail_inside()
    with reporter.track("train again", 10) as advance:  # the failed bar has been taken down
        advance(10)

"""Wrong settings and command lines, many of them: each is one line that names what is wrong."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import wrong_settings
from wrong_settings import Place, complaint_of, draw_cases

from cotrain_dist.cli import main as cli

NUM_KINDS = 13
"""Ways to be wrong, which `draw_cases` takes in turn."""


def run_cases(num: int, seed: int, folder: Path) -> None:
    """In one fresh process: a mistake must cost no import of torch."""
    done = subprocess.run(
        [sys.executable, wrong_settings.__file__, str(num), str(seed), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout) == {"num_run": num}


def test_what_is_wrong_is_one_line_that_names_it(tmp_path: Path) -> None:
    run_cases(12 * NUM_KINDS, 0, tmp_path / "place")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 4))
def test_what_is_wrong_is_one_line_that_names_it_many_times(seed: int, tmp_path: Path) -> None:
    run_cases(40 * NUM_KINDS, seed, tmp_path / "place")


@pytest.mark.slow
def test_so_it_is_for_the_command_as_a_process(tmp_path: Path) -> None:
    place = Place.make(tmp_path / "place")
    before = place.content()
    num_run = 0
    for case in draw_cases(4 * NUM_KINDS, 4, place):
        # No process can be given a NUL, nor a word as long as some are here.
        if any("\0" in word or len(word) > 5000 for word in case.arguments) or num_run == 30:
            continue
        done = subprocess.run(
            [sys.executable, "-m", "cotrain_dist", *case.arguments],
            cwd=place.folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert complaint_of(case, done.returncode, done.stderr) == "", (case, done.stderr)
        assert place.content() == before
        num_run += 1
    assert num_run == 30


def test_the_cases_differ_and_come_again(tmp_path: Path) -> None:
    place = Place.make(tmp_path / "place")
    cases = list(draw_cases(200, 7, place))
    for case in random.Random(0).sample(cases, 20):
        assert case.arguments
        assert case.named
    assert len({tuple(case.arguments) for case in cases}) > 150
    assert {case.arguments[0] for case in cases} >= {"train", "plan", "queue", "predict"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plan", "--num_ranks=--"], "--num_ranks: --: is no value; see"),
        (["reproduce", "--seeds=--"], "--seeds: --: is no value; see"),
        (["plan", "--num_ranks", "1", "--num-ranks", "2"], "--num-ranks: --num-ranks: is given"),
        (["plan", "--num_ranks", "9" * 20], "argument --num_ranks: 99999999999999999999 is too la"),
        (["plan", "--num_ranks", "x"], "argument --num_ranks: x is no whole number; see"),
        (["calibrate", "--tolerance", "inf"], "argument --tolerance: inf is no finite number; see"),
        (["calibrate", "--tolerance", "x"], "argument --tolerance: x is no finite number; see"),
        (["plan", "--=1"], "command line: --=1: belongs to no key; write --KEY VALUE."),
        (["plan", "--seed", "9007199254740993"], "seed: 9007199254740993: is too large a number"),
        (["plan", "--placement.ranks_a", "[1, 99999999999999999]"], "ranks_a: 99999999999999999:"),
        (["plan", "--data.root", "a\udcffb"], r"data.root: a\udcffb: holds a NUL or bytes that"),
        (["plan", "\0"], r"command line: \x00: holds a NUL or bytes that are no UTF-8; give text"),
        (["queue", "--output", "x.csv", "--sed", "1"], "sed: 1: no such key; did you mean seed."),
    ],
)
def test_mistakes_that_argparse_would_let_pass(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_mapping_for_text_or_true_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text("model_b.pretrained: {a: 1}\n")
    assert cli.main(["plan", "--config", str(tmp_path / "x.yaml")]) == 2

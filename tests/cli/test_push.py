"""`push`: a fake hub gets the bytes of the run, timm loads them; every refusal is one line."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import FinishedRun
from fake_hub import FakeHub, fake_hub
from huggingface_hub import ModelCard, constants

from cotrain_dist.cli import main as cli

REPO = "me/digits"

LOAD = """
import sys, timm, torch
model = timm.create_model("hf-hub:me/digits", pretrained=True).eval()
here = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).eval()
images = torch.rand(2, 3, 32, 32) if "Vision" in type(model).__name__ else torch.rand(2, 3, 16, 16)
assert torch.equal(model(images), here(images))
print(model.pretrained_cfg["label_names"])
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A fake one that the client asks, with a token that it knows."""
    with fake_hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setenv("HF_TOKEN", "hf_known")
        yield hub


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that a push ends with."""
    capsys.readouterr()
    assert cli.main(["push", *map(str, arguments)]) == 2
    # The hub's client shows its progress on stderr as well.
    *progress, error = capsys.readouterr().err.splitlines()
    assert all(line.startswith("model.safetensors: ") for line in progress if line), progress
    assert error.startswith("error: ")
    return error


def test_a_dry_run_asks_nobody(
    finished_run: FinishedRun,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    assert cli.main(["push", str(finished_run.path), REPO, "--dry_run"]) == 0
    printed = capsys.readouterr().out
    size = (finished_run.path / "models" / "best" / "model.safetensors").stat().st_size
    assert f"{REPO} (private), best of {finished_run.path}:" in printed
    assert f"model.safetensors: {size:,} bytes" in printed
    assert "README.md: " in printed
    assert "config.json: " in printed
    assert "nothing was sent" in printed
    assert hub.asked == []


@pytest.mark.parametrize("model", ["best", "b"])
def test_the_hub_gets_the_bytes_of_the_run(
    model: str, finished_run: FinishedRun, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", model, "--license", "apache-2.0"]
    assert cli.main(["push", str(finished_run.path), REPO, *options]) == 0
    folder = finished_run.path / "models" / model
    names = {f"{REPO}/{name}" for name in ("README.md", "config.json", "model.safetensors")}
    assert set(hub.files) == names
    for name in ("config.json", "model.safetensors"):
        assert hub.files[f"{REPO}/{name}"] == (folder / name).read_bytes()
    assert hub.is_private == {REPO: True}
    assert hub.num_commits == 1
    card = ModelCard(hub.files[f"{REPO}/README.md"].decode())
    assert card.data.library_name == "timm"
    assert card.data.license == "apache-2.0"
    assert card.data.pipeline_tag == "image-classification"
    assert f'timm.create_model("hf-hub:{REPO}", pretrained=True)' in card.text
    for heading in ("How it was made", "How good it is", "Limits"):
        assert f"## {heading}" in card.text
    role = json.loads((folder / "config.json").read_text())["cotrain_dist"]["role"]
    assert f"this is {role.upper()} after epoch" in card.text
    assert f"{hub.url}/{REPO}/commit/" in capsys.readouterr().out


@pytest.mark.slow
def test_timm_loads_from_the_hub_what_was_pushed(
    finished_run: FinishedRun, hub: FakeHub, tmp_path: Path
) -> None:
    assert cli.main(["push", str(finished_run.path), REPO]) == 0
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(finished_run.path / "models" / "best")],
        env=os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['0', '1', '2', '3']"


def test_a_repository_stays_as_visible_as_it_was(
    finished_run: FinishedRun, hub: FakeHub, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished_run.path
    hub.is_private |= {"me/open": False, "me/shut": True}
    assert "me/open: is there already, and public; give --public" in refused(capsys, run, "me/open")
    assert "me/shut: is there already, and private; leave out --public" in refused(
        capsys, run, "me/shut", "--public"
    )
    assert hub.files == {}
    assert cli.main(["push", str(run), "me/open", "--public"]) == 0
    assert cli.main(["push", str(run), "me/new", "--public"]) == 0
    assert hub.is_private == {"me/open": False, "me/shut": True, "me/new": False}


@pytest.mark.parametrize(
    ("repo", "options", "said"),
    [
        ("digits", [], "REPO: digits: names no owner; give OWNER/NAME"),
        ("a/b/c", [], "REPO: a/b/c: is no name of a repository"),
        ("me/di gits", [], "is no name of a repository"),
        (REPO, ["--model", "c"], "--model: c: "),
        (REPO, ["--model", "../models/best"], "has not saved it; give one of a, b, best."),
        (REPO, ["--license", "Mine: all"], "--license: Mine: all: is no identifier of a license"),
    ],
)
def test_what_cannot_be_meant(
    repo: str,
    options: list[str],
    said: str,
    finished_run: FinishedRun,
    hub: FakeHub,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert said in refused(capsys, finished_run.path, repo, *options)
    assert hub.asked == []


def test_a_damaged_model_and_a_run_that_goes_on(
    finished_run: FinishedRun, hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(finished_run.path, run)
    about = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(about | {"finished": False}))
    assert f"RUN: {run}: has not finished" in refused(capsys, run, REPO)
    weights = run / "models" / "best" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert "is damaged: its SHA-256 is not the one" in refused(capsys, run, REPO)
    (run / "models" / "best" / "config.json").write_text("{")
    assert "is damaged" in refused(capsys, run, REPO)
    shutil.rmtree(run / "models")
    assert "has not saved it; train to the end first" in refused(capsys, run, REPO)
    assert hub.asked == []


def test_without_login_right_or_network(
    finished_run: FinishedRun,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = finished_run.path
    monkeypatch.delenv("HF_TOKEN")
    assert "needs a login: this machine has no token" in refused(capsys, run, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_unknown")
    assert "knows no such token (" in refused(capsys, run, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_reader")
    assert "does not let this token write there (" in refused(capsys, run, REPO)
    monkeypatch.setenv("HF_TOKEN", "hf_known")
    hub.refuses_commits = True
    error = refused(capsys, run, REPO)
    assert "refuses (" in error
    assert "the storage of this account is full" in error
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "http://127.0.0.1:9 does not answer (" in refused(capsys, run, REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE: 1: forbids to ask the hub" in refused(capsys, run, REPO)
    assert hub.files == {}

"""A pickle under any name that a run opens does nothing; between ranks nothing is unpickled."""

import contextlib
import io
import os
import pickle
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ranks import run_ranks, tiny_config, train_run

from cotrain_dist.config import Config
from cotrain_dist.config.text import config_to_yaml


class _Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._marker),)


_seen: dict[str, set[str]] | None = None
"""While a command is traced: names of opened files, and of what was unpickled."""


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _seen["opened"].add(os.path.abspath(os.fsdecode(arguments[0])))
    if event == "pickle.find_class":
        _seen["unpickled"].add(".".join(map(str, arguments)))


_is_hooked = False


@contextlib.contextmanager
def _traced() -> Any:
    global _seen, _is_hooked
    if not _is_hooked:  # a hook stays for good
        sys.addaudithook(_hook)
        _is_hooked = True
    _seen = {"opened": set(), "unpickled": set()}
    try:
        yield _seen
    finally:
        _seen = None


def _run(arguments: list[str]) -> tuple[int, str]:
    from cotrain_dist.cli.main import main

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        return main(arguments), errors.getvalue()


def _attack(settings: Path, folder: Path) -> list[tuple[str, str, int, str, bool, list[str]]]:
    """A body: name, command, exit code, errors, whether the payload ran and what was unpickled."""
    run, images, marker = folder / "run", folder / "images", folder / "marker"
    payload = pickle.dumps(_Payload(marker))
    commands = {
        "train": ["train", "--config", str(settings)],
        "resume": ["train", "--resume", str(run)],
        "evaluate": ["evaluate", str(run)],
        "predict": ["predict", str(run), str(images / "digit_3")],
    }
    opened: dict[str, str] = {}
    for name, arguments in commands.items():
        with _traced() as seen:
            code, errors = _run(arguments)
        assert code == 0, errors
        assert not seen["unpickled"], seen
        for file in sorted(seen["opened"]):
            if Path(file).is_relative_to(folder) and Path(file).is_file():
                opened.setdefault(file, name)
    # What is opened by compiled code tells no hook: all that lies there is taken as well.
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            opened.setdefault(str(file), "train")
    # One image is as good as any other.
    of_images = [file for file in opened if file.endswith(".png")]
    chosen = [file for file in opened if file not in of_images[3:]]
    shutil.copytree(folder, folder.with_name("kept"))
    found = []
    for file in chosen:
        name = opened[file]
        for part in ("run", "starts", "images", "cache"):
            shutil.rmtree(folder / part, ignore_errors=True)
            shutil.copytree(folder.with_name("kept") / part, folder / part)
        shutil.copy(folder.with_name("kept") / settings.name, settings)
        Path(file).write_bytes(payload)
        if name == "train":  # a new one, but for what lies in the old one: that a resume reads
            is_of_run = Path(file).is_relative_to(run)
            name = "resume" if is_of_run else name
            if not is_of_run:
                shutil.rmtree(run)
        with _traced() as seen:
            code, errors = _run(commands[name])
        found.append((file, name, code, errors, marker.exists(), sorted(seen["unpickled"])))
    return found


@pytest.mark.slow
def test_a_pickle_under_any_name_that_is_opened_does_nothing(
    digits_folder: Path, starts: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "all"
    folder.mkdir()
    shutil.copytree(digits_folder, folder / "images")
    for role in ("a", "b"):
        shutil.copytree(starts[role], folder / "starts" / role)
    config = tiny_config(
        folder / "images",
        folder / "run",
        data={"cache": str(folder / "cache")},
        model_a={"name": None, "pretrained": str(folder / "starts" / "a")},
        model_b={
            "name": None,
            "pretrained": str(folder / "starts" / "b"),
            "train": "head",
        },
        pretrain={"num_epochs": 1},
        cotrain={"num_epochs": 1},
    )
    config = replace(
        config, data=replace(config.data, feature_cache=str(folder / "cache" / "features"))
    )
    (folder / "settings.yaml").write_text(config_to_yaml(config))
    (found,) = run_ranks(
        _attack, 1, tmp_path, folder / "settings.yaml", folder, timeout_seconds=500
    )
    names = {Path(file).name for file, *_ in found}
    assert names >= {"config.yaml", "run.json", "model.safetensors", "config.json", "pixels"}
    assert names >= {"manifest.json", "state.json", "splits.parquet", "settings.yaml"}
    assert any(name.endswith(".features") for name in names)
    for file, name, code, errors, has_run, unpickled in found:
        what = (file, name, code, errors)
        assert not has_run, what
        assert not unpickled, (what, unpickled)
        # Refused, or damaged and made anew.
        assert code in (0, 2), what
        assert (
            len([line for line in errors.splitlines() if line.startswith("error: ")]) == code // 2
        )
        assert "Traceback" not in errors, what


def test_the_payload_does_run_when_it_is_unpickled(tmp_path: Path) -> None:
    """The control: what the test above looks for can happen."""
    with _traced() as seen:
        pickle.loads(pickle.dumps(_Payload(tmp_path / "marker")))
    assert (tmp_path / "marker").is_dir()
    assert seen["unpickled"] == {"posix.mkdir"}


def _train_traced(config: Config) -> list[str]:
    """A body: what a rank unpickles in a training."""
    with _traced() as seen:
        train_run(config)
    return sorted(seen["unpickled"])


@pytest.mark.slow
def test_ranks_unpickle_nothing(digits_folder: Path, tmp_path: Path) -> None:
    config = tiny_config(digits_folder, tmp_path / "run")
    assert run_ranks(_train_traced, 2, tmp_path, config) == [[], []]

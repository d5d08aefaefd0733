"""A run that goes on with other settings, on purpose; and `--resume auto` from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from ranks import history_of, run_ranks, tiny_config

from cotrain_dist.cli.main import main
from cotrain_dist.config import Config
from cotrain_dist.config.text import config_to_yaml

pytestmark = pytest.mark.slow


def _arguments(config: Config, folder: Path) -> list[str]:
    (folder / "settings.yaml").write_text(config_to_yaml(config))
    return ["train", "--config", str(folder / "settings.yaml"), "--resume", "auto"]


def _main(arguments: list[str]) -> int:
    """A body."""
    return main(arguments)


def _train(num_ranks: int, folder: Path, arguments: list[str], code: int = 0) -> str:
    """The command on some ranks; what rank 0 printed."""
    (folder / "rank-0.out").write_text("")
    assert run_ranks(_main, num_ranks, folder, arguments) == [code] * num_ranks
    return (folder / "rank-0.out").read_text()


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_changed_run_goes_on_and_tells_of_it(
    num_ranks: int, digits_folder: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    short: dict[str, Any] = {"pretrain": {"num_epochs": 1}, "cotrain": {"num_epochs": 1}}
    arguments = _arguments(tiny_config(digits_folder, run, **short), tmp_path)
    printed = _train(num_ranks, tmp_path, arguments)
    assert f"resume auto: no unfinished run in {run}; a new one begins there" in printed
    assert "finished; nothing to do" in _train(num_ranks, tmp_path, arguments)
    before = (run / "config.yaml").read_text()
    history = history_of(run)

    changed = [*arguments, "--cotrain.num_epochs", "2", "--selection.threshold", "0.2"]
    printed = _train(num_ranks, tmp_path, changed, code=2)
    assert "(cotrain.num_epochs 1 -> 2, selection.threshold 0.3 -> 0.2)" in printed
    assert (run / "config.yaml").read_text() == before
    assert json.loads((run / "run.json").read_text())["attempt"] == 1

    printed = _train(num_ranks, tmp_path, [*changed, "--allow-config-change"])
    assert f"resume auto: going on with {run}" in printed
    assert "settings changed by this attempt: cotrain.num_epochs 1 -> 2" in printed
    assert json.loads((run / "config-changes-2.json").read_text()) == [
        {"key": "cotrain.num_epochs", "before": 1, "now": 2},
        {"key": "selection.threshold", "before": 0.3, "now": 0.2},
    ]
    assert history_of(run)[: len(history)] == history
    assert history_of(run)[-1]["epoch"] == 2
    log = (run / "logs" / "rank-000.log").read_text()
    assert "WARNING settings changed by this attempt: selection.threshold 0.3 -> 0.2" in log

    # From now on these are the run's settings.
    assert "Accuracy on T" in _train(num_ranks, tmp_path, ["train", "--resume", str(run)])
    assert not (run / "config-changes-3.json").exists()
    assert "nothing to do" in _train(num_ranks, tmp_path, changed)


def test_the_flag_alone_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--allow-config-change"]) == 2
    assert "--allow_config_change: (given): without --resume" in capsys.readouterr().err

"""`train --resume auto`, and settings that change on a resume: shown, refused or allowed."""

import json
from pathlib import Path

import pytest
import yaml
from ranks import history_of, tiny_config

from cotrain_dist.cli.main import main
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.errors import PeerLostError
from cotrain_dist.store.run_directory import RunDirectory


@pytest.fixture
def words(digits_folder: Path, pretrained: Path, tmp_path: Path) -> list[str]:
    """Settings of a run of seconds, which lies in `run` below tmp_path."""
    config = tiny_config(
        digits_folder,
        tmp_path / "run",
        model_a={"name": "test_efficientnet", "init_from": f"{pretrained}/a"},
        model_b={"name": "test_efficientnet", "init_from": f"{pretrained}/b"},
        pretrain={"num_epochs": 0},
        cotrain={"num_epochs": 1},
    )
    file = tmp_path / "settings.yaml"
    file.write_text(config_to_yaml(config))
    return ["--config", str(file)]


def _about(run: Path) -> dict[str, object]:
    about: dict[str, object] = json.loads((run / "run.json").read_text())
    return about


def test_auto_begins_goes_on_and_leaves_a_finished_run(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", "--resume", "auto", *words]) == 0
    assert "so a new one" in capsys.readouterr().err
    ended = history_of(run)
    assert main(["train", "--resume", "auto", *words]) == 0
    assert _about(run)["attempt"] == 1  # finished: nothing was done
    (run / "run.json").write_text(
        json.dumps({key: value for key, value in _about(run).items() if key != "finished"})
    )
    assert main(["train", "--resume", "auto", *words]) == 0
    assert _about(run)["attempt"] == 2
    assert _about(run)["finished"]
    assert history_of(run) == ended


def test_changed_settings_are_refused_all_by_name_and_taken_where_allowed(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", *words]) == 0
    changed = ["--cotrain.num_epochs", "2", "--selection.threshold", "0.41"]
    for arguments in (["--resume", str(run)], ["--resume", "auto", *words]):
        assert main(["train", *arguments, *changed]) == 2
        told = capsys.readouterr().err
        assert "cotrain.num_epochs: 2: cannot change in an existing run, which has 1" in told
        assert "nor can selection.threshold (" in told
        assert "--allow_config_change" in told
    assert _about(run)["attempt"] == 1
    allowed = ["train", "--resume", str(run), "--allow-config-change"]
    assert main([*allowed, *changed, "--seed", "9"]) == 2  # its data and weights hang on it
    assert "seed: 9: cannot change" in capsys.readouterr().err

    assert main([*allowed, *changed]) == 0
    assert [line["epoch"] for line in history_of(run) if line["phase"] == "cotrain"] == [0, 1, 2]
    assert yaml.safe_load((run / "config.yaml").read_text())["cotrain"]["num_epochs"] == 2
    assert yaml.safe_load((run / "config-1.yaml").read_text())["cotrain"]["num_epochs"] == 1
    assert main(["train", "--resume", str(run)]) == 0  # from now on these are its settings
    log = (run / "logs" / "rank-000.log").read_text()
    assert "cotrain.num_epochs: 1 -> 2" in log


def test_who_was_taken_over_commits_nothing(words: list[str], tmp_path: Path) -> None:
    assert main(["train", *words]) == 0
    orphan, later = RunDirectory(tmp_path / "run"), RunDirectory(tmp_path / "run")
    orphan.note_owner()
    orphan.require_owner()
    later.open_again()
    later.count_attempt()
    with pytest.raises(PeerLostError, match=r"attempt 2 has taken over .* this one, 1, commits"):
        orphan.require_owner()
    later.note_owner()
    later.require_owner()
    later.close()

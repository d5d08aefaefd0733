"""Images that go while a run reads them: one line names one; with them back the run goes on."""

import shutil
import time
from pathlib import Path

import pytest
from ranks import history_of, run_ranks, start_commands, tiny_config, train_run

from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.store.checkpoint import commits_in


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_a_run_ends_with_its_name_and_goes_on_once_it_is_back(
    num_ranks: int, digits_folder: Path, tmp_path: Path
) -> None:
    """All images of one class, so that some are of L and some of U; nothing of them is cached."""
    images, aside, run = tmp_path / "images", tmp_path / "aside", tmp_path / "run"
    shutil.copytree(digits_folder, images)
    changes = {
        "data": {"cache": "off"},
        "pretrain": {"num_epochs": 12},
        "placement": {"ranks_a": [0] if num_ranks == 3 else None},
    }
    config = tiny_config(images, run, **changes)
    (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
    words = ["train", "--config", str(tmp_path / "settings.yaml")]
    started = start_commands(num_ranks, words, tmp_path)
    until = time.monotonic() + 120
    while len(commits_in(run / "checkpoints" / "a")) < 1:
        assert time.monotonic() < until
        time.sleep(0.02)
    (images / "digit_3").rename(aside)
    codes = [rank.wait(60) for rank in started]
    printed = [(tmp_path / f"{rank}.out").read_text() for rank in range(num_ranks)]
    assert codes == [2] * num_ranks, printed
    named = f"{images}/digit_3/"
    told = [text for text in printed if "error: " in text]
    assert told, printed
    assert all(named in text and "train --resume then goes on" in text for text in told), printed
    assert "Traceback" not in "".join(printed)
    assert commits_in(run / "checkpoints" / "a")

    aside.rename(images / "digit_3")
    again = start_commands(num_ranks, ["train", "--resume", str(run)], tmp_path)
    assert [rank.wait(200) for rank in again] == [0] * num_ranks
    calm = tiny_config(images, tmp_path / "calm", **changes)
    run_ranks(train_run, num_ranks, tmp_path, calm)
    assert history_of(run) == history_of(tmp_path / "calm")

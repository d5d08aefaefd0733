"""An image that cannot be read: one clear line, exit code 2, and the directory free again.

Before a training (`data.on_bad_image: error`), and where it has become so since.
"""

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from ranks import RanksFailed, run_ranks, tiny_config

from cotrain_dist.cli import main as cli
from cotrain_dist.config import Config
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.data.sources import list_images
from cotrain_dist.data.splits import draw_split_table
from cotrain_dist.method.splits import Split
from cotrain_dist.training import steps


def image_of(split: Split, config: Config) -> Path:
    table = draw_split_table(list_images(config.data), config.data, config.seed)
    return Path(str(config.data.root)) / table.listing.paths[table.sample_ids(split)[0]]


def on_a_copy(folder: Path, to: Path, num_workers: int = 0) -> tuple[Config, list[str]]:
    """Settings for a copy of the images, and the command that trains on them."""
    shutil.copytree(folder, to / "images")
    config = tiny_config(
        to / "images",
        to / "runs" / "one",
        data={"num_workers": num_workers},
        pretrain={"num_epochs": 1},
        cotrain={"num_epochs": 1},
        distributed={"lost_after_seconds": 5.0},
    )
    (to / "settings.yaml").write_text(config_to_yaml(config))
    return config, ["train", "--config", str(to / "settings.yaml")]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_one_line_and_the_repaired_second_try_works(
    num_workers: int, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, command = on_a_copy(digits_folder, tmp_path, num_workers)
    image = image_of(Split.L_A, config)
    content = image.read_bytes()
    image.write_bytes(content[:-30])
    assert cli.main(command) == 2
    printed = capsys.readouterr()
    (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    name = image.relative_to(str(config.data.root))
    assert line.startswith(
        f"error: data.on_bad_image: error: 1 of 200 images cannot be used: {name} ("
    )
    assert "--data.on_bad_image skip" in line
    assert "Traceback" not in printed.err
    assert not (tmp_path / "runs").exists()
    image.write_bytes(content)
    assert cli.main([*command, "--data.num_workers", "0"]) == 0


def train_while_the_other_waits(command: list[str], which: int, image: Path) -> int:
    """A body: one rank trains; the other one is still in its first step when it hears of that.

    The image is damaged after the scan, in whose cache nothing is kept.
    """

    def wait(*arguments: Any) -> float:
        threading.Event().wait()
        raise AssertionError

    def damage(*arguments: Any) -> Any:
        image.write_bytes(b"x" * image.stat().st_size)
        return train_steps(*arguments)

    train_steps = steps.train_steps
    if int(os.environ["RANK"]) == which:
        steps.train_steps = damage
    else:
        steps.train_step = wait
    return cli.main(command)


@pytest.mark.slow
@pytest.mark.parametrize("which", [0, 1])
def test_a_mistake_that_one_of_two_ranks_meets(
    which: int, digits_folder: Path, tmp_path: Path
) -> None:
    """The lead rank removes the directory, whichever of the two has met the image."""
    config, command = on_a_copy(digits_folder, tmp_path)
    image = image_of((Split.L_A, Split.L_B)[which], config)
    command += ["--data.cache", "off"]
    (tmp_path / "runs").mkdir()
    with pytest.raises(RanksFailed) as failure:
        run_ranks(train_while_the_other_waits, 2, tmp_path, command, which, image)
    assert failure.value.exit_codes == {1 - which: 2}
    assert list((tmp_path / "runs").iterdir()) == []
    mistake = f"data.root: {image}: cannot be read as an image ("
    met, heard = (tmp_path / f"rank-{rank}.out" for rank in (which, 1 - which))
    assert f"error: rank {which} on " in met.read_text()
    assert mistake in met.read_text()
    assert f"error: rank {which} (role {'AB'[which]}, node " in heard.read_text()
    assert f") has met a mistake: {mistake}" in heard.read_text()
    assert "Traceback" not in met.read_text() + heard.read_text()

"""The Python API: build a Config, `cotrain` it, look at the run with `load_run`.

>>> import tempfile, torch
>>> from cotrain_dist import Config, CotrainConfig, DataConfig, ModelConfig, PretrainConfig, cotrain
>>> folder = tempfile.TemporaryDirectory()
>>> config = Config(
...     data=DataConfig(image_size=16, labeled_per_class=2),
...     model_a=ModelConfig(name="test_resnet"),
...     model_b=ModelConfig(name="test_vit"),
...     pretrain=PretrainConfig(num_epochs=1, warmup_epochs=0),
...     cotrain=CotrainConfig(num_epochs=1, warmup_epochs=0),
...     device="cpu",
...     output_dir=f"{folder.name}/run",
... )
>>> run = cotrain(config, quiet=True)
>>> [line["epoch"] for line in run.history if line["phase"] == "cotrain"]
[0, 1]
>>> sorted(run.history[-1]["test"])
['a', 'b', 'ensemble']
>>> run.load_model("best")(torch.zeros(1, 3, 16, 16)).shape
torch.Size([1, 10])
>>> folder.cleanup()
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from cotrain_dist.cli.parsing import config_from_yaml
from cotrain_dist.cli.run_config import config_of_run
from cotrain_dist.config import Config
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.data.groups import GroupTable, load_group_table
from cotrain_dist.models import load_saved
from cotrain_dist.reporting.run_directory import RunDirectory, stop_log
from cotrain_dist.training.train import train


@dataclass(frozen=True)
class Run:
    """A run on disk."""

    path: Path
    config: Config

    @property
    def history(self) -> list[dict[str, Any]]:
        """The lines of history.jsonl, oldest first (docs/run-directory.md)."""
        return RunDirectory(self.path).history.read()

    @property
    def groups(self) -> GroupTable:
        """Every image with its class and its group; reads groups.parquet."""
        return load_group_table(self.path)

    def load_model(self, name: Literal["a", "b", "best"]) -> nn.Module:
        """A saved model on the CPU, in evaluation mode: [N, 3, S, S] float32 -> [N, C] logits.

        Raises UserError where the run has not saved it yet.
        """
        return load_saved(self.path / "models" / name)


def cotrain(config: Config, *, quiet: bool = False) -> Run:
    """Train both models as `cotrain-dist train` does; collective under a launcher.

    Raises UserError for a mistake in the settings, the data or the start, TrainingError where
    training fails. quiet: print nothing.
    """
    # Read back by the rules of a file: Python lets words and types pass that no setting has.
    checked = config_from_yaml(config_to_yaml(config), "config")
    try:
        train(checked, resume=False, quiet=quiet)
    finally:
        stop_log()
    return load_run(config.output_dir)


def load_run(path: str | Path) -> Run:
    """A run that train wrote, finished or not. Raises UserError where there is none."""
    return Run(Path(path), config_of_run(Path(path), [], "load_run"))

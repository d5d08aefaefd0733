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
>>> [record.epoch for record in run.cotrain_history]
[0, 1]
>>> sorted(run.cotrain_history[-1].test)
['a', 'b', 'ensemble']
>>> run  # doctest: +ELLIPSIS
Run('.../run')
>>> "top-1 on T" in run._repr_html_()  # what a notebook shows of it
True
>>> run.load_model("best")(torch.zeros(1, 3, 16, 16)).shape
torch.Size([1, 10])
>>> folder.cleanup()
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import nn

from cotrain_dist.config import Config
from cotrain_dist.config.of_run import config_of_run
from cotrain_dist.config.parsing import config_from_yaml
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.data.splits import SplitTable, load_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.inference.evaluate import notes_of_best
from cotrain_dist.models import load_saved
from cotrain_dist.reporting.notebook import html_of_run
from cotrain_dist.reporting.tables import show_outcome
from cotrain_dist.store.records import CotrainRecord, PretrainRecord
from cotrain_dist.store.run_directory import RunDirectory
from cotrain_dist.training.train import train


@dataclass(frozen=True, repr=False)
class Run:
    """A run on disk. A notebook shows its accuracies as a table."""

    path: Path
    config: Config

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    def _repr_html_(self) -> str:
        """What a notebook shows: accuracy of A, B, both together and models/best, and the path."""
        best = notes_of_best(self.path)
        return html_of_run(self.path, self.cotrain_history, self.splits, best)

    @property
    def pretrain_history(self) -> list[PretrainRecord]:
        """The epochs of Step 1 of both models, oldest first."""
        return RunDirectory(self.path).history.pretrain()

    @property
    def cotrain_history(self) -> list[CotrainRecord]:
        """The epochs of Step 2, oldest first; epoch 0 is its start."""
        return RunDirectory(self.path).history.cotrain()

    @property
    def splits(self) -> SplitTable:
        """Every image with its class and its split; reads splits.parquet."""
        return load_split_table(self.path)

    def load_model(self, name: Literal["a", "b", "best", "step_one_a", "step_one_b"]) -> nn.Module:
        """A saved model on the CPU, in evaluation mode: [N, 3, S, S] float32 -> [N, C] logits.

        Raises UserError where the run has not saved it; those of Step 1 are there with
        `cotrain.keep_step_one`.
        """
        return load_saved(self.path / "models" / name)


def cotrain(
    config: Config | None = None, *, resume: str | Path | None = None, quiet: bool = False
) -> Run:
    """Train both models as `cotrain-dist train` does; collective under a launcher.

    config: of a new run. resume: the directory of an earlier one instead, which goes on from its
    last commit. quiet: print nothing. Raises UserError for a mistake in the settings, the data or
    the start, TrainingError where training fails; whatever is raised, no lock, file, thread or
    process group stays behind.
    """
    if (config is None) == (resume is None):
        raise UserError(
            "cotrain",
            "config and resume",
            "one of the two is needed",
            "give a Config, or resume=RUN",
        )
    if config is None:
        checked = config_of_run(Path(str(resume)), [], "cotrain")
    else:
        # Read back by the rules of a file: Python lets words and types pass that no setting has.
        checked = config_from_yaml(config_to_yaml(config), "config")
    history = train(checked, resume=config is None, quiet=quiet)
    if not quiet:
        show_outcome(history)
    # Read back from the disk on every rank: the others hold no history.
    return load_run(checked.output_dir)


def load_run(path: str | Path) -> Run:
    """A run that train wrote, finished or not. Raises UserError where there is none."""
    return Run(Path(path), config_of_run(Path(path), [], "load_run"))

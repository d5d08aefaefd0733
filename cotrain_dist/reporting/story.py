"""What a run directory tells of a run, for its page."""

from pathlib import Path

from cotrain_dist.config import Config
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.inference.evaluate import notes_of_best
from cotrain_dist.method.splits import Split
from cotrain_dist.printable import printable
from cotrain_dist.reporting.overview import seconds_of, status_of
from cotrain_dist.reporting.page import RunStory
from cotrain_dist.store.records import CrossValidation
from cotrain_dist.store.run_directory import RunDirectory


def has_models(path: Path) -> bool:
    """Whether a run has saved both models: it does so in each epoch of Step 2."""
    return all((path / "models" / role / "config.json").is_file() for role in "ab")


def story_of(path: Path, config: Config) -> RunStory:
    """Read a run's history and splits. config: its settings. UserError where they are damaged."""
    run = RunDirectory(path)
    table = load_split_table(path)
    sizes = {split: len(table.sample_ids(split)) for split in Split}
    records = run.history.cotrain()
    estimate = run.read_json("run.json").get("cross_validation")
    return RunStory(
        name=printable(str(path)),
        status=status_of(run),
        recipe=config.recipe,
        num_labels=sizes[Split.L_A] + sizes[Split.L_B],
        num_pool=sizes[Split.U],
        num_measured={split.name: sizes[split] for split in (Split.T, Split.V)},
        seconds=seconds_of(run.history.pretrain(), records),
        records=records,
        best=notes_of_best(path),
        estimate=CrossValidation.from_json(estimate) if estimate else None,
    )

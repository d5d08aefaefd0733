"""A job of SLURM: what `submit` hands to sbatch."""

import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from argparse import Namespace
from dataclasses import dataclass, field
from pathlib import Path

from cotrain_dist.config import Config

SCRIPTS = Path("launch", "slurm")


@dataclass(frozen=True)
class Job:
    """A command that waits for its nodes."""

    script: str
    """A file of launch/slurm."""
    words: list[str]
    """What stands behind it."""
    output: Path
    """What the command writes; the job is named by it."""
    environ: dict[str, str] = field(default_factory=dict)
    """What the script reads."""
    settings: Config | None = None
    """Kept in `settings_file` at the moment of submitting; None where a run keeps its own."""

    @property
    def settings_file(self) -> Path:
        """The settings as they are now: editing a file later changes no job that waits."""
        return settings_file_of(self.output)

    def command(self, own: Namespace) -> list[str]:
        """The call of sbatch; own: the options of `submit`."""
        name = f"cotrain-{self.output.name}"
        options = ["--nodes", str(own.nodes), "--time", own.time, "--job-name", name]
        if own.gpus_per_node:
            options += ["--gpus-per-node", str(own.gpus_per_node)]
        num_cpus = own.cpus_per_task or _share_of_cpus(own.gpus_per_node)
        if num_cpus is not None:
            options += ["--cpus-per-task", str(num_cpus)]
        options += shlex.split(own.sbatch)  # last: sbatch takes the last word on an option
        return ["sbatch", *options, str(_script(self.script)), *self.words]

    @property
    def variables(self) -> dict[str, str]:
        """Of the environment that it is submitted with."""
        # A batch shell may find another Python than the one that has checked the settings.
        return {"COTRAIN_PYTHON": sys.executable} | self.environ


def settings_file_of(output: Path) -> Path:
    """Beside what a job writes."""
    return output.with_name(f"{output.name}.yaml")


def _share_of_cpus(num_gpus: int) -> int | None:
    """CPUs of a node, or of those GPUs of it; of the smallest node. None where SLURM is not there.

    Without a number SLURM gives a launcher one CPU, and all processes of a node share it.
    """
    if shutil.which("sinfo") is None:
        return None
    words = ["sinfo", "--noheader", "--Node", "--format=%c %G"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=30)
    except subprocess.TimeoutExpired:  # sbatch will say what is wrong
        return None
    shares = []
    for cpus, resources in (line.split(maxsplit=1) for line in done.stdout.splitlines()):
        # Such as gpu:h100:8(S:0-1),shard:16
        found = re.search(r"\bgpu:(?:[^:,()]+:)?(\d+)", resources)
        num_there = int(found[1]) if found else 0
        if num_there >= num_gpus:
            shares.append(int(cpus) * num_gpus // num_there if num_gpus else int(cpus))
    return max(min(shares), 1) if shares else None


def _script(name: str) -> Path:
    """The batch script: of this checkout, or as installed."""
    places = (Path(__file__).parents[2], Path(sysconfig.get_path("data"), "share", "cotrain_dist"))
    for place in places:
        if (place / SCRIPTS / name).is_file():
            return place / SCRIPTS / name
    raise AssertionError(f"{name} is in none of {places}")

"""From the command to the end of the first step on digits, beside the import of torch and timm.

python benchmarks/start.py [CHECKOUT]

One process with what the program chooses by itself; alone, and beside two busy programs. The two
take turns. CHECKOUT: another checkout of this repository to measure, such as an earlier commit.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

from targets import Target, ratios, seconds_in_turns

ROOT = Path(__file__).parents[1]
IMPORTS = "import os, torch, timm; os._exit(0)"
"""Without the end of the interpreter, which the start is measured without as well."""
BUSY = "while True: pass"
NUM_BUSY = 2
AT_FIRST_STEP = 17
"""Exit code of a training that this script ends."""

# The program's own start, up to a hook of torch; the hook can be set once torch is imported.
FIRST_STEP = f"""
import os, sys
from cotrain_dist.runtime import stop

def end_at_first_step():
    from torch.optim.optimizer import register_optimizer_step_post_hook
    register_optimizer_step_post_hook(lambda *_: os._exit({AT_FIRST_STEP}))

stop.end_on_signal = end_at_first_step
from cotrain_dist.cli.main import main
sys.exit(main())
"""


def targets(checkout: Path = ROOT) -> list[Target]:
    """The start as a multiple of the imports: with nothing else started, and beside two loops."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "MKL_", "KMP_", "GOMP_"))
    } | {"PYTHONPATH": str(checkout)}
    with tempfile.TemporaryDirectory() as folder:
        numbers = count()

        def start() -> None:
            settings = ["--config", str(checkout / "configs/digits.yaml")]
            settings += ["--output_dir", f"{folder}/{next(numbers)}"]
            run(["-c", FIRST_STEP, "train", *settings], checkout, environ, AT_FIRST_STEP)

        actions = {"start": start, "imports": partial(run, ["-c", IMPORTS], checkout, environ)}
        for action in actions.values():  # files come into the memory of the system
            action()
        alone = seconds_in_turns(actions)
        with busy_programs(NUM_BUSY):
            beside = seconds_in_turns(actions)
    return [
        target("start, to the first step on digits, of the imports' time", alone, 1.2),
        target(f"the same beside {NUM_BUSY} busy programs", beside, 1.3),
    ]


def target(name: str, seconds: dict[str, list[float]], bound: float) -> Target:
    """At most `bound` times the imports."""
    return Target(
        name=name,
        values=ratios(seconds["start"], seconds["imports"]),
        bound=bound,
        is_least=False,
        measured={f"{key}, seconds": values for key, values in seconds.items()},
    )


def run(arguments: list[str], folder: Path, environ: dict[str, str], expected: int = 0) -> None:
    """A Python in a process of its own. It imports the package in `folder` before any other."""
    command = [sys.executable, *arguments]
    done = subprocess.run(
        command, cwd=folder, env=environ, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == expected, done.stderr


@contextmanager
def busy_programs(number: int) -> Iterator[None]:
    """Loops that never end, beside the block."""
    loops = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(number)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    found = targets(*(Path(word).absolute() for word in sys.argv[1:]))
    for one in found:
        for what, values in one.measured.items():
            print(f"  {what}: {', '.join(f'{value:.2f}' for value in values)}")
        print(one.line())
    sys.exit(not all(one.is_met for one in found))

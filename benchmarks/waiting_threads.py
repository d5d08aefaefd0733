"""A training step with threads that spin and threads that sleep, beside busy programs.

    python benchmarks/waiting_threads.py [NUM_BUSY]

One thread, one for each core as OpenMP starts them, and the same with OMP_WAIT_POLICY=PASSIVE, as
the program sets it; in turn, each in a new process. Prints medians over three processes.
"""

import os
import subprocess
import sys
from statistics import median

from start import busy_programs

STEPS = {("test_resnet", 32, 10): 10, ("efficientnet_b0", 64, 32): 2}
"""Model of timm, image size and batch; and how many steps are measured."""

WAYS = {
    "1 thread": {"OMP_NUM_THREADS": "1"},
    "all cores, spinning": {},
    "all cores, sleeping": {"OMP_WAIT_POLICY": "PASSIVE"},
}
NUM_REPEATS = 3

MEASURE = """
import sys, time, timm, torch
name, size, batch, num_steps = sys.argv[1], *map(int, sys.argv[2:])
model = timm.create_model(name, num_classes=10)
optimizer = torch.optim.AdamW(model.parameters())
images, targets = torch.randn(batch, 3, size, size), torch.zeros(batch, dtype=torch.long)
for step in range(num_steps + 1):
    if step == 1:
        started = time.perf_counter()
    optimizer.zero_grad()
    torch.nn.functional.cross_entropy(model(images), targets).backward()
    optimizer.step()
print((time.perf_counter() - started) / num_steps * 1000)
"""


def milliseconds(settings: tuple[str, int, int], num_steps: int, way: dict[str, str]) -> float:
    """Of one step, in a process of its own."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("OMP_", "MKL_", "KMP_", "GOMP_"))
    }
    words = [sys.executable, "-c", MEASURE, *map(str, (*settings, num_steps))]
    done = subprocess.run(words, env=environ | way, capture_output=True, text=True, check=True)
    return float(done.stdout)


def main(num_busy: int) -> None:
    """Measure and print."""
    with busy_programs(num_busy):
        for settings, num_steps in STEPS.items():
            found: dict[str, list[float]] = {name: [] for name in WAYS}
            for _ in range(NUM_REPEATS):
                for name, way in WAYS.items():
                    found[name].append(milliseconds(settings, num_steps, way))
            for name, values in found.items():
                shown = ", ".join(f"{value:.0f}" for value in sorted(values))
                print(
                    f"{settings[0]}, {name}: {median(values):.0f} ms a step ({shown})", flush=True
                )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1)

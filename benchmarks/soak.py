"""Kill, stop or freeze random ranks at random moments, go on, and compare the end bit by bit.

    SOAK_MINUTES=20 python benchmarks/soak.py OUTPUT [--seed 0] [--worlds 2 1+3] [--recipes paper]
        [--phases train fit] [--deeds kill freeze] [--broken layout]

Each run is disturbed up to three times. It is killed: by SIGKILL, at a moment drawn from those that
an undisturbed run has counted in each phase (start, features, passes, gathers, broadcasts, thirds
of training, fits, commits while they are written or deleted, before and after their rename), on a
rank that is drawn; or the launcher is, at a random second. Or a rank is frozen by SIGSTOP, or asked
to stop by a signal or by the stop file (`--deeds`). A kill counts where the victim's wait status
proves it and the run was unfinished. All others must end by themselves, and all of them with the
code of a stop after one; then the run is continued with `train --resume`, and at its end its models
and history must equal those of the undisturbed run. Each deed is a line of OUTPUT/ledger.jsonl;
several calls add to it, for one commit of the code. Phases with few of them come first. Exit code 1
where a run hangs, fails or ends with other bits, or where a commit is found half written.
`--broken` breaks the build on purpose, and then that must be so.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import soak_ranks
from soak_ranks import (
    DEEDS,
    ENDED_SECONDS,
    Ranks,
    Victim,
    clean_environment,
    counts_in,
    descendants,
    free_port,
    import_all,
    lives,
    start_ranks,
    until_one_ended,
    wait_for,
)

WORLDS: dict[str, tuple[int, str]] = {
    "1": (1, "null"),
    "2": (2, "null"),
    "2+2": (4, "null"),
    "1+3": (4, "[0]"),
    "3+3": (6, "null"),
}
RECIPES = ("paper", "synergy", "heads")
RUN_SECONDS = 600.0
STOP_SECONDS = 30.0
"""Limit on the time from a request to stop until the last rank has ended."""
EXIT_STOPPED, EXIT_PEER_LOST = 3, 4
RANKS_FILE = str(soak_ranks.__file__)

STEPS = ("train", "fit")
"""Points that are steps of training; those of `train` are told by thirds of all of them."""


@dataclass(frozen=True)
class Plan:
    """A world and a recipe."""

    world: str
    recipe: str

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.recipe}-{self.world.replace('+', '-')}"


class Soak:
    """All runs of one call."""

    def __init__(
        self, output: Path, seed: int, phases: Sequence[str] = (), deeds: Sequence[str] = ("kill",)
    ) -> None:
        self.output, self.seed, self.phases, self.deeds = output, seed, phases, deeds
        self.random = random.Random(seed)
        self.ledger = output / "ledger.jsonl"
        root = Path(__file__).parents[1]
        self.commit = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        self.num_failures = 0
        make_inputs(output / "inputs")

    def arguments(self, plan: Plan, run: Path) -> list[str]:
        """Of `train`."""
        inputs, (num_ranks, ranks_a) = self.output / "inputs", WORLDS[plan.world]
        words = [
            *("--data.root", inputs / "digits", "--data.image_size", 32, "--device", "cpu"),
            *("--data.test_per_class", 4, "--data.labeled_per_class", 4),
            *("--data.center_crop_fraction", 1.0, "--train.batch_size", 8),
            *("--pretrain.num_epochs", 3, "--pretrain.warmup_epochs", 0),
            *("--cotrain.num_epochs", 3, "--cotrain.warmup_epochs", 0),
            *("--checkpoint.every_steps", 2, "--distributed.lost_after_seconds", 5),
            *("--distributed.start_seconds", 60),
            *("--data.feature_cache", run.parent / "features", "--output_dir", run),
        ]
        if num_ranks > 1:
            words += ["--placement.ranks_a", ranks_a]
        if plan.recipe == "paper":
            for role in "ab":
                words += [f"--model_{role}.name", "test_efficientnet"]
                words += [f"--model_{role}.drop_rate", 0.1]
            words += ["--data.augment", "crop_flip", "--selection.threshold", 0.2]
        else:
            words += ["--recipe", "synergy"]
            words += ["--model_a.pretrained", inputs / "test_resnet"]
            words += ["--model_b.pretrained", inputs / "test_efficientnet"]
            if plan.recipe == "heads":
                words += ["--model_a.train", "head", "--model_b.train", "head"]
            else:
                words += ["--pretrain.fit_head", "true", "--train.ema_decay", 0.9]
        return ["train", *map(str, words)]

    def start(self, plan: Plan, run: Path, marks: Path, victim: Victim | None) -> Ranks:
        """The ranks of a run that begins or goes on, with new marks."""
        _new_folder(marks)
        return start_ranks(WORLDS[plan.world][0], self._words(plan, run), run, marks, victim)

    def undisturbed(self, plan: Plan) -> tuple[str, dict[int, Counter[str]]]:
        """The digest of an undisturbed run, and the moments of each phase by rank."""
        folder = self.output / self.commit / plan.name / "undisturbed"
        run, marks = folder / "run", folder / "marks"
        if not _is_finished(run):
            shutil.rmtree(folder, ignore_errors=True)
            ranks = self.start(plan, run, marks, None)
            codes = wait_for(ranks, RUN_SECONDS)
            if set(codes.values()) != {0}:
                raise SystemExit(f"{plan.name}: undisturbed, and ended with {codes}: {marks}")
        return digest_of(run), counts_in(marks, WORLDS[plan.world][0])

    def episode(self, plan: Plan, number: int) -> None:
        """One run, killed up to three times, and its end."""
        expected, counts = self.undisturbed(plan)
        num_failures = self.num_failures
        folder = self.output / self.commit / plan.name / f"{self.seed}-{number}"
        run = folder / "run"
        kills: list[dict[str, Any]] = []
        last: dict[str, Any] | None = None
        for attempt in range(self.random.randint(1, 3)):
            if _is_finished(run):
                break
            marks = folder / f"marks-{attempt}"
            disturbed = self._kill_launcher if self._draws_launcher(plan) else self._disturb_rank
            found = disturbed(plan, run, marks, counts)
            if last is not None:
                self._tell_what_came_after(last, marks)
            last = found
            for half in half_written(run):
                self._fail(f"{plan.name} {number}: {half} has its name and is not whole: {marks}")
            if found is not None:
                kills.append(found)  # which is told more of by the next attempt
        marks = folder / "marks-end"
        if not _is_finished(run):
            ranks = self.start(plan, run, marks, None)
            codes = wait_for(ranks, RUN_SECONDS)
            if last is not None:
                self._tell_what_came_after(last, marks)
            if set(codes.values()) != {0}:
                self._fail(f"{plan.name} {number}: continued, and ended with {codes}: {marks}")
                return
        is_same = digest_of(run) == expected
        taken = sum(counts_in(path, 1)[0]["train"] for path in folder.glob("marks-*"))
        for kill in kills:
            line = {
                **{"commit": self.commit, "seed": self.seed, "episode": number},
                **{"world": plan.world, "recipe": plan.recipe, "is_same": is_same},
                **{"steps_lost_by_run": taken - counts[0]["train"], **kill},
            }
            with self.ledger.open("a") as file:
                file.write(json.dumps(line) + "\n")
        if is_same and self.num_failures == num_failures:
            shutil.rmtree(folder)
        elif not is_same:
            self._fail(f"{plan.name} {number}: other bits after {kills}: {folder}")

    def _words(self, plan: Plan, run: Path) -> list[str]:
        """To begin a run, or to go on with it."""
        if (run / "run.json").is_file():
            return ["train", "--resume", str(run)]
        return self.arguments(plan, run)

    def _draws_launcher(self, plan: Plan) -> bool:
        is_wanted = "kill" in self.deeds and (not self.phases or "launcher" in self.phases)
        return is_wanted and WORLDS[plan.world][0] > 1 and self.random.random() < 0.1

    def _disturb_rank(
        self, plan: Plan, run: Path, marks: Path, counts: dict[int, Counter[str]]
    ) -> dict[str, Any] | None:
        """One rank at a drawn moment; None where the run has ended without it."""
        deed = self.random.choice([d for d in self.deeds if d != "freeze" or len(counts) > 1])
        done = Counter(line["phase"] for line in self.lines() if line["deed"] == deed)
        choices = [
            (rank, point, nth, phase_of(point, nth, number))
            for rank, own in counts.items()
            for point, number in own.items()
            for nth in (self.random.randint(1, number) for _ in range(3))
        ]
        choices = [choice for choice in choices if not self.phases or choice[1] in self.phases]
        if deed == "stop file":  # there is no run directory yet
            choices = [choice for choice in choices if choice[1] != "start"]
        fewest = min(done[phase] for *_, phase in choices)
        rank, point, nth, phase = self.random.choice(
            [choice for choice in choices if done[choice[3]] <= fewest + 1]
        )
        ranks = self.start(plan, run, marks, Victim(rank, point, nth, deed))
        until_one_ended(ranks, RUN_SECONDS)
        # One that is frozen ends for none of the others; it is let go once they have.
        others = {key: value for key, value in ranks.items() if key != rank or deed != "freeze"}
        codes = wait_for(others, ENDED_SECONDS)
        ended_at = time.time()
        if deed == "freeze":
            ranks[rank].kill()
            codes |= wait_for({rank: ranks[rank]}, ENDED_SECONDS)
        told = f"{plan.name}: {codes} after {deed} of rank {rank} in {phase}: {marks}"
        if None in codes.values():
            self._fail(told)
        if not (marks / "deed").exists() or _is_finished(run):
            return None
        seconds = ended_at - (marks / "deed").stat().st_mtime
        if deed == "kill":
            is_well = codes[rank] == -signal.SIGKILL
        elif deed == "freeze":
            is_well = {codes[other] for other in others} == {EXIT_PEER_LOST}
        else:
            is_well = set(codes.values()) == {EXIT_STOPPED} and seconds < STOP_SECONDS
        if not is_well:
            self._fail(f"{told}, {seconds:.0f} s after it")
        return {
            **{"deed": deed, "phase": phase, "rank": rank, "status": codes[rank]},
            "seconds_until_all_ended": round(seconds, 1),
        }

    def _kill_launcher(
        self, plan: Plan, run: Path, marks: Path, counts: dict[int, Counter[str]]
    ) -> dict[str, Any] | None:
        """`accelerate launch` at a random second; its ranks must end by themselves."""
        _new_folder(marks)
        num_ranks = WORLDS[plan.world][0]
        launch = [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
            *("--num_machines", "1", "--num_processes", str(num_ranks)),
            *("--mixed_precision", "no", "--dynamo_backend", "no"),
            *("--main_process_port", str(free_port())),
            *(RANKS_FILE, *self._words(plan, run)),
        ]
        with (marks / "launcher.out").open("wb") as file:
            launcher = subprocess.Popen(
                launch, env=clean_environment() | {"SOAK_DIR": str(marks)}, stdout=file, stderr=file
            )
        time.sleep(self.random.uniform(5.0, 40.0))
        children = descendants(launcher.pid)
        launcher.send_signal(signal.SIGKILL)
        status, died_at = launcher.wait(), time.monotonic()
        while any(lives(pid) for pid in children):
            if time.monotonic() - died_at > ENDED_SECONDS:
                self._fail(f"{plan.name}: ranks live {ENDED_SECONDS:g} s after their launcher")
                for pid in children:
                    if lives(pid):
                        os.kill(pid, signal.SIGKILL)
            time.sleep(0.1)
        if status != -signal.SIGKILL or _is_finished(run):
            return None
        return {
            **{"deed": "kill", "phase": "launcher", "rank": None, "status": status},
            "seconds_until_all_ended": round(time.monotonic() - died_at, 1),
        }

    def _tell_what_came_after(self, kill: dict[str, Any], marks: Path) -> None:
        """Seconds from the start of the next attempt to its first step, where it came so far."""
        firsts = [
            path.stat().st_mtime for point in STEPS for path in marks.glob(f"first.*.{point}")
        ]
        if firsts:
            begun = (marks / "begun").stat().st_mtime
            kill["seconds_to_first_step"] = round(min(firsts) - begun, 1)

    def _fail(self, text: str) -> None:
        self.num_failures += 1
        print(f"FAILED: {text}", flush=True)

    def lines(self) -> list[dict[str, Any]]:
        """The ledger of this commit."""
        if not self.ledger.is_file():
            return []
        lines = [
            {"deed": "kill"} | json.loads(line) for line in self.ledger.read_text().splitlines()
        ]
        return [line for line in lines if line["commit"] == self.commit]


def phase_of(point: str, nth: int, number: int) -> str:
    """The name of a moment's phase.

    >>> phase_of("train", 5, 6), phase_of("gather", 5, 6)
    ('train, third 3', 'gather')
    """
    return f"train, third {1 + 3 * (nth - 1) // number}" if point == "train" else point


def make_inputs(folder: Path) -> None:
    """200 digits as an image folder, and two tiny starts."""
    if (folder / "made").is_file():
        return
    import timm
    import torch
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for digit in range(10):
        own = folder / "digits" / f"digit_{digit}"
        own.mkdir(parents=True, exist_ok=True)
        for index, pixels in enumerate(digits.images[digits.target == digit][:20]):
            Image.fromarray((pixels * (255 / 16)).astype("uint8")).save(own / f"{index:02d}.png")
    torch.manual_seed(0)
    for name in ("test_resnet", "test_efficientnet"):
        model = timm.create_model(name, num_classes=7)
        timm.models.save_for_hf(model, folder / name, safe_serialization=True)
    (folder / "made").touch()


def digest_of(run: Path) -> str:
    """Of all models, and of the history without what clock and memory say."""
    digest = hashlib.sha256()
    for file in sorted(run.glob("models/*/model.safetensors")):
        digest.update(file.read_bytes())
    for line in (run / "history.jsonl").read_text().splitlines():
        values = json.loads(line)
        kept = {k: v for k, v in values.items() if "seconds" not in k and "memory" not in k}
        digest.update(json.dumps(kept, sort_keys=True).encode())
    return digest.hexdigest()


def half_written(run: Path) -> list[str]:
    """Commits that have their name, though their files are not those of their manifest."""
    from cotrain_dist.errors import UserError
    from cotrain_dist.store.checkpoint import commits_in, read_state

    found = []
    for folder in (path for path in run.glob("checkpoints/**") if path.is_dir()):
        for path in commits_in(folder) if folder.name in ("a", "b", "world") else ():
            try:
                read_state(path)
            except UserError:
                found.append(str(path.relative_to(run)))
    return found


def _new_folder(marks: Path) -> None:
    shutil.rmtree(marks, ignore_errors=True)
    marks.mkdir(parents=True)
    (marks / "begun").touch()


def _is_finished(run: Path) -> bool:
    try:
        return bool(json.loads((run / "run.json").read_text()).get("finished"))
    except (OSError, ValueError):
        return False


def report(lines: list[dict[str, Any]]) -> str:
    """Each deed by phase and world, and what it cost."""
    deeds = [deed for deed in DEEDS if any(line["deed"] == deed for line in lines)]
    return "\n\n".join(_report([line for line in lines if line["deed"] == d], d) for d in deeds)


def _report(lines: list[dict[str, Any]], deed: str) -> str:
    worlds = [world for world in WORLDS if any(line["world"] == world for line in lines)]
    text = ["| phase | " + " | ".join(worlds) + " | all |", "|---" * (len(worlds) + 2) + "|"]
    for phase in sorted({line["phase"] for line in lines}):
        own = [line for line in lines if line["phase"] == phase]
        numbers = [sum(line["world"] == world for line in own) for world in worlds]
        text.append(f"| {phase} | " + " | ".join(map(str, (*numbers, len(own)))) + " |")
    text.append("")
    text.append(
        f"{deed}: {len(lines)}, {sum(not line['is_same'] for line in lines)} with other bits"
    )
    value_of: Callable[[str], list[float]] = lambda key: [  # noqa: E731
        line[key] for line in lines if line.get(key) is not None
    ]
    for key in ("seconds_until_all_ended", "seconds_to_first_step", "steps_lost_by_run"):
        if values := value_of(key):
            text.append(f"{key}: median {median(values):.1f}, most {max(values):.1f}")
    return "\n".join(text)


def main() -> int:
    """Kill until the time is over."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--worlds", nargs="+", choices=list(WORLDS), default=list(WORLDS))
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--episodes", type=int, help="at most so many, whatever the time")
    parser.add_argument("--phases", nargs="+", default=[], help="kill in these points alone")
    parser.add_argument("--deeds", nargs="+", choices=list(DEEDS), default=["kill"])
    parser.add_argument("--broken", default="", choices=("", "layout", "rename", "exchange"))
    given = parser.parse_args()
    until = time.monotonic() + 60.0 * float(os.environ.get("SOAK_MINUTES", "10"))
    import_all()
    os.environ["SOAK_BROKEN"] = given.broken
    soak, number = Soak(given.output.absolute(), given.seed, given.phases, given.deeds), 0
    while time.monotonic() < until and number != given.episodes:
        if given.broken and soak.num_failures:
            break  # found out
        plan = Plan(soak.random.choice(given.worlds), soak.random.choice(given.recipes))
        soak.episode(plan, number)
        number += 1
        print(f"{plan.name}: {len(soak.lines())} deeds, {soak.num_failures} failures", flush=True)
    print(report(soak.lines()))
    return 1 if soak.num_failures else 0


if __name__ == "__main__":
    sys.exit(main())

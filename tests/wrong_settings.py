"""Settings and command lines that are known to be wrong, drawn by a seed.

Each begins as one that a command takes and is made wrong in one place. What is wrong is decided by
the tables below, which say what a key may be as docs/configuration.md does, never by the parser.
"""

import contextlib
import io
import json
import os
import random
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import yaml

from cotrain_dist.config.schema import OPTIONS, all_keys


@dataclass(frozen=True)
class Case:
    """A command line, and what its error has to name: one of these texts."""

    arguments: list[str]
    named: tuple[str, ...]
    why: str


LEAST: dict[str, float] = {
    "train.batch_size": 2,
    **dict.fromkeys(
        (
            *("data.test_per_class", "data.labeled_per_class", "train.accumulation_steps"),
            *("pretrain.patience_epochs", "pretrain.eval_every_epochs", "cotrain.epochs_per_round"),
            *("selection.top_k_per_class", "structure.num_iterations", "structure.num_neighbors"),
            *("structure.num_steps", "consistency.ratio", "pool.batch_size", "checkpoint.keep"),
            *("checkpoint.every_steps", "distributed.start_seconds", "distributed.timeout_seconds"),
            *("distributed.lost_after_seconds", "distributed.stalled_after_seconds"),
            "distributed.wait_for_peer_seconds",
        ),
        1,
    ),
    **dict.fromkeys(
        (
            *("data.num_workers", "pretrain.num_epochs", "cotrain.num_epochs", "seed"),
            *("pretrain.warmup_epochs", "cotrain.warmup_epochs", "cotrain.final_epochs"),
            *("train.pseudo_ramp_epochs", "train.weight_decay", "model_a.weight_decay"),
            *("model_b.weight_decay", "train.mixup", "train.cutmix", "consistency.fairness"),
            *("pretrain.min_learning_rate", "cotrain.min_learning_rate", "data.audit_images"),
        ),
        0,
    ),
}
"""Numbers without an upper limit of their own: what they may be at least."""

BETWEEN: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("data.image_size", "model_a.image_size", "model_b.image_size"), (8, 4096)),
    **dict.fromkeys(
        (
            *("data.center_crop_fraction", "data.crop_min_area", "data.test_fraction"),
            *("data.labeled_fraction", "data.validation_fraction", "model_a.drop_rate"),
            *("model_b.drop_rate", "model_a.drop_path_rate", "model_b.drop_path_rate"),
            *("model_a.crop_min_area", "model_b.crop_min_area", "train.label_smoothing"),
            *("train.least_labeled_fraction", "train.ema_decay", "selection.threshold"),
            *("pretrain.stop_at_train_accuracy", "structure.vote_weight", "structure.prior_power"),
            *("structure.spread", "consistency.threshold", "consistency.momentum"),
        ),
        (0, 1),
    ),
}
"""Numbers between two limits, of which one or both may be allowed: beyond them none is."""

POSITIVE = {
    *("data.cache_gb", "model_a.head_penalty", "model_b.head_penalty", "train.clip_grad_norm"),
    *("model_a.learning_rate_scale", "model_b.learning_rate_scale", "train.pseudo_weight"),
    *("pretrain.learning_rate", "cotrain.learning_rate", "selection.sharpen"),
    *("structure.shrinkage", "structure.concentration", "structure.neighbor_power"),
    *("consistency.temperature", "consistency.weight", "checkpoint.every_minutes"),
}
"""Numbers that must be above 0."""

SECTIONS = (
    *("data", "model_a", "model_b", "train", "pretrain", "cotrain", "selection", "structure"),
    *("consistency", "pool", "placement", "distributed", "checkpoint"),
)

PAIRS: list[tuple[list[str], tuple[str, ...]]] = [
    (["--pretrain.num_epochs=0", "--cotrain.num_epochs=0"], ("cotrain.num_epochs",)),
    (["--model_a.pretrained=true", "--model_a.init_from=x"], ("model_a.init_from",)),
    (["--model_b.train=head"], ("model_b.train",)),
    (["--selection.rule=mean_soft"], ("selection.rule",)),
    (["--structure.kind=graph"], ("structure.kind",)),
    (["--selection.targets=soft"], ("selection.targets",)),
    (["--pretrain.fit_head=true"], ("pretrain.fit_head",)),
    (["--consistency.teacher=own"], ("consistency.teacher", "data.augment")),
    (["--consistency.teacher=ema", "--data.augment=strong"], ("consistency.teacher",)),
    (["--consistency.momentum=0.5"], ("consistency.momentum",)),
    (["--consistency.policy=free", "--consistency.threshold=0.5"], ("consistency.threshold",)),
    (["--pretrain.num_epochs=3", "--pretrain.warmup_epochs=3"], ("pretrain.warmup_epochs",)),
    (["--cotrain.learning_rate=1e-3", "--cotrain.min_learning_rate=1"], ("min_learning_rate",)),
    (["--selection.threshold_policy=free", "--selection.threshold=0.5"], ("selection.threshold",)),
    (["--distributed.stalled_after_seconds=5"], ("distributed.stalled_after_seconds",)),
    (["--data.test_fraction=0.5", "--data.labeled_fraction=0.4"], ("data.labeled_fraction",)),
    (["--data.source=hub"], ("data.name",)),
    (["--data.source=torchvision"], ("data.name",)),
    (["--data.source=csv"], ("data.table",)),
    (["--data.source=imagefolder"], ("data.root",)),
    (["--cotrain.final_epochs=2"], ("cotrain.final_epochs",)),
    (["--train.pseudo_view=strong"], ("data.augment",)),
]
"""Settings that do not go together."""

NO_NUMBER = ["abc", "1e", "0y10", "--", "1,5", "1 2", "½", "٣x", "true", "[1]", "{a: 1}", "1;rm"]
NO_WHOLE_NUMBER = [*NO_NUMBER, "1.5", "1e3x", ".5", "-", "9" * 30, "-" + "9" * 25, "9" * 6000]
NO_FINITE_NUMBER = [*NO_NUMBER, "nan", ".nan", "inf", "-.inf", "-inf", "1e999", "NaN"]
NO_WORD = ["\x1b[31mred", "a\x07b", "no such", "ALTERNATE", "\U0001d51e", "off\n", "1", "o f"]
NO_TEXT = ["", "null", "~", "None", "a\x00b"]
NO_NAME = ["nul\x00l", "seedx9", "Data.Root", "data.", ".seed", "model_c.name", "s\u0435ed", "=x"]


def wrong_value(name: str, rng: random.Random) -> str:
    """A text that a key cannot be."""
    hint = all_keys()[name].hint
    if get_origin(hint) is Literal or any(get_origin(part) is Literal for part in get_args(hint)):
        return rng.choice(NO_WORD)
    kinds = get_args(hint) or (hint,)
    has_limits = name in LEAST or name in BETWEEN or name in POSITIVE
    if has_limits and rng.random() < 0.6:
        return _beyond(name, whole=int in kinds, rng=rng)
    if float in kinds:
        return rng.choice([*NO_FINITE_NUMBER, *([] if type(None) in kinds else ["null", ""])])
    if hint is bool:
        return rng.choice(["maybe", "2", "1.0", "", "null", "[true]", "truefalse", "oui"])
    if str in kinds:
        return "a\x00b" if type(None) in kinds or bool in kinds else rng.choice(NO_TEXT)
    if list[int] in kinds:
        return rng.choice(["0", "[a]", "[0.5]", "[0", "{0: 1}", "[[0]]", "[0, null]"])
    return rng.choice([*NO_WHOLE_NUMBER, *([] if type(None) in kinds else ["null", ""])])


def _beyond(name: str, *, whole: bool, rng: random.Random) -> str:
    """A number outside of what a key may be."""
    if name in POSITIVE:
        below = [0.0, -rng.random(), -1e300]
        return repr(rng.choice(below))
    low, high = BETWEEN.get(name, (LEAST.get(name, 0), None))
    far = rng.randint(1, 10 ** rng.randint(1, 12))
    numbers: list[float] = [low - far, low - 1]
    if high is not None:
        numbers += [high + far, high + 1]
    if not whole:
        numbers += [low - rng.random() * 0.5 - 1e-6]
        numbers += [] if high is None else [high + rng.random() * 0.5 + 1e-6]
    return repr(rng.choice(numbers))


def wrong_file(rng: random.Random) -> tuple[bytes, tuple[str, ...]]:
    """The bytes of a YAML file, and what the error has to name ("FILE" is the file itself)."""
    key = rng.choice([name for name in all_keys() if "." in name])
    section, _, name = key.partition(".")
    kinds: list[Callable[[], tuple[str | bytes, tuple[str, ...]]]] = [
        lambda: (_as_yaml(key, wrong_value(key, rng)), (key, "FILE")),
        lambda: (
            f"seed: 1\n{section}: {rng.choice(['5', '[1, 2]', 'text', '~', ''])}\n",
            (section,),
        ),
        lambda: (f"{section}:\n  {name}: x\n  {name}: y\n", (key,)),
        lambda: (f"{section}: {{}}\n{section}: {{}}\n", (section,)),
        lambda: (f"{section}:\n  {name}x9: 1\n", (f"{key}x9",)),
        lambda: (f"{section}:\n  seed: 1\n", (f"{section}.seed",)),
        lambda: (f"{rng.choice(SECTIONS)}.zz: 1\n", (".zz",)),
        lambda: (f"seed: 1\n{rng.choice(['- a', '?', ': :', '@', '%x', '`'])}\n", ("FILE",)),
        lambda: ("seed: 1\n\tdata: 2\n", ("FILE",)),
        lambda: (f"seed: {'[' * rng.randint(1, 400)}\n", ("FILE", "seed")),
        lambda: ("seed: &a [*a]\n", ("FILE", "seed")),
        lambda: ("seed: *nowhere\n", ("FILE",)),
        lambda: (f"{key}: {{a: {{b: [c]}}}}\n", (key,)),
        lambda: ("seed: 1\n---\nseed: 2\n", ("FILE",)),
        lambda: (
            rng.choice(["", "just text", "- a\n- b\n", "[1]", "null", "# nothing\n"]),
            ("FILE",),
        ),
        lambda: (f"seed: 1\n{section}:\n  {name}: a\x1bb\n", ("FILE", key)),
        lambda: (b"seed: 1\n\xff\xfe" + rng.randbytes(8), ("config", "FILE")),
        lambda: (rng.randbytes(rng.randint(1, 200)), ("config", "FILE")),
        lambda: ("\ufeff\ufeffseed: 1\n", ("FILE", "seed")),
        lambda: ("<<: {seed: 1}\n", ("<<",)),
        lambda: ("seed: !!python/object/apply:os.getcwd []\n", ("seed",)),
        lambda: ("resume: runs/x\nseed: 1\n", ("resume",)),
        lambda: (f"'{section}\x1b[2J': 1\n".replace("\x1b", "\\x1b").replace("'", '"'), (section,)),
    ]
    text, named = rng.choice(kinds)()
    return (text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")), named


def _as_yaml(key: str, value: str) -> str:
    section, _, name = key.rpartition(".")
    tree: Any = {section: {name: value}} if section else {name: value}
    return yaml.safe_dump(tree, allow_unicode=True)


@dataclass(frozen=True)
class Place:
    """What lies where the commands run, and must lie there unchanged afterwards."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def images(self) -> Path:
        return self.folder / "images"

    @property
    def file(self) -> Path:
        return self.folder / "a file.csv"

    @classmethod
    def make(cls, folder: Path) -> "Place":
        """A run that holds settings alone, a folder of images of two classes, a file."""
        place = cls(folder)
        place.run.mkdir(parents=True)
        (place.run / "config.yaml").write_text("seed: 3\n")
        for name in ("one", "two"):
            (place.images / name).mkdir(parents=True)
            (place.images / name / "0.png").write_bytes(b"no image")
        for name in ("a", "b"):
            (place.run / "models" / name).mkdir(parents=True)
            (place.run / "models" / name / "config.json").write_text('{"architecture": "x"}')
            (place.run / "models" / name / "model.safetensors").touch()
        place.file.write_text("path,label\n")
        (folder / "wrong").mkdir()
        return place

    def content(self) -> set[Path]:
        """All that lies there but for the files of settings."""
        return {
            path
            for folder in (self.folder, self.run, self.images, self.run / "models")
            for path in folder.iterdir()
        }

    def commands(self) -> dict[str, list[str]]:
        """What would be right of each command, by a name for it."""
        run, out = str(self.run), f"--output_dir={self.folder / 'new'}"
        table = f"--output={self.folder / 'new.csv'}"
        return {
            "train": ["train", out],
            "resume": ["train", "--resume", run],
            "recycle": ["train", "--recycle", run, out],
            "plan": ["plan"],
            "submit": ["submit", "--dry-run", out],
            "calibrate": ["calibrate", out],
            "reproduce": ["reproduce", out],
            "queue": ["queue", table, f"--data.root={self.images}"],
            "queue of a run": ["queue", run, table],
            "evaluate": ["evaluate", run],
            "verify": ["verify", run],
            "predict": ["predict", run, str(self.images)],
        }


OWN_NUMBERS = {
    "plan": {"--num_ranks": 1, "--num_nodes": 1},
    "submit": {"--nodes": 1, "--gpus-per-node": 0, "--ranks-per-node": 1, "--cpus-per-task": 1},
    "calibrate": {"--draws": 1, "--max_trials": 1},
    "reproduce": {"--seeds": 0},
    "queue": {"--size": 1},
    "queue of a run": {"--size": 1},
    "evaluate": {"--most_confused": 0},
    "verify": {"--epoch": 0},
}
"""Options of commands that take a whole number, and the least that it may be."""

OWN_FRACTIONS = {
    "calibrate": {"--target_accuracy": 1, "--tolerance": 1},
    "queue": {"--near": 2},
    "queue of a run": {"--near": 2},
}
"""Options that take a number from 0 to this."""

OWN_WORDS = {
    "reproduce": ("--arms",),
    "queue": ("--strategy",),
    "queue of a run": ("--strategy",),
}

OF_A_RUN = ("resume", "recycle", "queue of a run", "evaluate", "verify", "predict")


def draw_cases(num: int, seed: int, place: Place) -> Iterator[Case]:
    """Wrong command lines, all kinds in turn; files of settings are written to `place.folder`."""
    rng = random.Random(seed)
    kinds = [
        _wrong_key,
        _wrong_key,
        _misspelled,
        _wrong_config,
        _wrong_config,
        _pair,
        _twice,
        _without_value,
        _own_option,
        _own_option,
        _path,
        _path,
        _stray,
    ]
    for index in range(num):
        name, begun = rng.choice(list(place.commands().items()))
        yield kinds[index % len(kinds)](name, begun, rng, place)


def _option(name: str, value: str, rng: random.Random) -> list[str]:
    is_one_word = not value or value.startswith("--") or rng.random() < 0.5
    return [f"--{name}={value}"] if is_one_word else [f"--{name}", value]


def _wrong_key(name: str, begun: list[str], rng: random.Random, place: Place) -> Case:
    key = rng.choice([key for key in all_keys() if key != "output_dir"])
    value = wrong_value(key, rng)
    return Case([*begun, *_option(key, value, rng)], (key,), "a value")


def _misspelled(name: str, begun: list[str], rng: random.Random, place: Place) -> Case:
    key = rng.choice(list(all_keys()))
    at = rng.randrange(1, len(key) - 1)
    wrong = rng.choice(
        [key[:at] + key[at + 1 :], key[:at] + "q" + key[at:], key.upper(), key + "é", *NO_NAME]
    )
    if wrong in all_keys() or wrong in OPTIONS:
        wrong += "_"
    shown = wrong.partition("=")[0].replace("\x00", "\\x00") or "command line"
    return Case([*begun, *_option(wrong, "1", rng)], (shown, "command line"), "a name")


def _wrong_config(name: str, begun: list[str], rng: random.Random, place: Place) -> Case:
    content, named = wrong_file(rng)
    if name == "recycle":  # which looks for models in the run first
        name, begun = "resume", place.commands()["resume"]
    folder = place.folder / "wrong" / f"{rng.randrange(10**9)}"
    folder.mkdir()
    file = folder / "config.yaml"
    file.write_bytes(content)
    named = tuple(str(file) if part == "FILE" else part for part in named)
    if name in OF_A_RUN:
        return Case([str(folder) if w == str(place.run) else w for w in begun], named, "a run's")
    return Case([*begun, "--config", str(file)], named, "a file")


def _pair(name: str, begun: list[str], rng: random.Random, place: Place) -> Case:
    pair, named = rng.choice(PAIRS)
    if name in OF_A_RUN or name == "queue":
        begun = ["train", f"--output_dir={place.folder / 'new'}"]
    return Case([*begun, *rng.sample(pair, len(pair))], named, "a pair")


def _twice(name: str, begun: list[str], rng: random.Random, place: Place) -> Case:
    own = [*OWN_NUMBERS.get(name, {}), *OWN_FRACTIONS.get(name, {}), *OWN_WORDS.get(name, ())]
    if own and rng.random() < 0.5:
        option = rng.choice(own)
        dashes = option.replace("_", "-") if rng.random() < 0.3 else option
        return Case([*begun, option, "1", dashes, "1"], (option, dashes), "twice")
    key = rng.choice(["seed", "device", "data.num_workers"])
    value = {"device": "cpu"}.get(key, "1")
    return Case([*begun, *_option(key, value, rng), *_option(key, value, rng)], (key,), "twice")


def _without_value(name: str, begun: list[str], rng: random.Random, place: Place) -> Case:
    own = [*OWN_NUMBERS.get(name, {}), *OWN_FRACTIONS.get(name, {}), *OWN_WORDS.get(name, ())]
    option = rng.choice(
        [*own, *(f"--{key}" for key in rng.sample(list(all_keys()), 3)), "--config"]
    )
    after = rng.choice([[], ["--tf32", "true"]])
    return Case([*begun, option, *after], (option, option.removeprefix("--")), "no value")


def _own_option(name: str, begun: list[str], rng: random.Random, place: Place) -> Case:
    numbers, fractions = OWN_NUMBERS.get(name, {}), OWN_FRACTIONS.get(name, {})
    words = OWN_WORDS.get(name, ())
    if not (numbers or fractions or words):
        return _misspelled(name, begun, rng, place)
    option = rng.choice([*numbers, *fractions, *words])
    if option in numbers:
        below = str(numbers[option] - rng.randint(1, 10 ** rng.randint(1, 30)))
        value = rng.choice([below, below, *NO_WHOLE_NUMBER])
    elif option in fractions:
        below, above = str(-rng.random() - 1e-9), str(fractions[option] + rng.random() + 1e-9)
        value = rng.choice([below, above, *NO_FINITE_NUMBER])
    else:
        value = rng.choice(NO_WORD)
    return Case([*begun, f"{option}={value}"], (option, option.replace("-", "_")), "an option")


def _path(name: str, begun: list[str], rng: random.Random, place: Place) -> Case:
    nowhere = str(place.folder / rng.choice(["nowhere", "no\nwhere", "no\x1b[31mwhere", "näh/wo"]))
    new, file, images = f"--output_dir={place.folder / 'new'}", str(place.file), str(place.images)
    begin = rng.choice([["train", new], ["plan"], ["calibrate", new], ["reproduce", new]])
    table = ["--data.source=csv", f"--data.table={file}"]
    lists = rng.choice([["queue", f"--data.root={images}"], ["queue", str(place.run)]])
    measure, label = ["evaluate", str(place.run)], ["predict", str(place.run), images]
    wrong = rng.choice([nowhere, file])
    cases: list[tuple[list[str], str]] = [
        ([*begin, "--data.source=imagefolder", f"--data.root={wrong}"], "data.root"),
        ([*begin, *table[:1], f"--data.table={rng.choice([nowhere, images])}"], "data.table"),
        ([*begin, *table, f"--data.root={wrong}"], "data.root"),
        ([*begin, f"--data.unlabeled={wrong}"], "data.unlabeled"),
        ([*begin, f"--data.test={wrong}"], "data.test"),
        (["train", new, f"--data.extra_labels={rng.choice([nowhere, images])}"], "extra_labels"),
        (["train", new, "--extra-labels", nowhere], "extra_labels"),
        ([*begin, f"--config={rng.choice([nowhere, images])}"], "config"),
        (["train", f"--output_dir={rng.choice([images, file])}"], "output_dir"),
        (["submit", "--dry-run", f"--output_dir={images}"], "output_dir"),
        (["train", "--resume", rng.choice([nowhere, file, images])], "no run directory"),
        (["train", "--recycle", rng.choice([nowhere, file]), new], "no run directory"),
        (["evaluate", rng.choice([nowhere, file, images])], "no run directory"),
        (["predict", rng.choice([nowhere, file, images]), images], "no run directory"),
        (["queue", nowhere, f"--output={place.folder / 'new.csv'}"], "no run directory"),
        ([*lists, f"--output={file}"], "--output"),
        ([*lists, f"--output={place.folder / 'new.txt'}"], "--output"),
        ([*lists, f"--output={nowhere}/new.csv"], "--output"),
        (lists, "--output"),
        ([*measure, f"--output={place.folder / 'new.txt'}"], "--output"),
        ([*measure, f"--output={nowhere}/new.json"], "--output"),
        ([*label, f"--output={file}"], "--output"),
        ([*label, f"--output={place.folder / 'new'}"], "--output"),
        ([*label, f"--output={nowhere}/new.csv"], "--output"),
        (["runs", wrong], "DIR"),
    ]
    arguments, named = rng.choice(cases)
    return Case(arguments, (named,), "a path")


def _stray(name: str, begun: list[str], rng: random.Random, place: Place) -> Case:
    cases: list[tuple[list[str], str]] = [
        ([rng.choice(["trian", "", "TRAIN", "--train", "\x1b[2J", "тrain", "-v"])], "command"),
        (["train", "word"], "command line"),
        (["plan", "word"], "command line"),
        (["train", "--", "word"], "command line"),
        (["plan", "--=1"], "command line"),
        (["env", "word"], "command line"),
        (["runs", ".", "word"], "command line"),
        (["runs", "--deep"], "command line"),
        (["env", "--seed", "1"], "command line"),
        (["predict", str(place.run)], "images"),
        (["predict"], "images"),
        (["evaluate"], "run"),
        (["train", "--resume"], "--resume"),
        (["train", f"--output_dir={place.folder / 'new'}", "--num_processes", "2"], "--num_proc"),
        (
            ["train", f"--output_dir={place.folder / 'new'}", "--max_restarts", "x"],
            "--max_restarts",
        ),
        (["train", "--allow-config-change"], "allow_config_change"),
        (["train", "--resume", "a", "--resume", "b"], "--resume"),
        (["train", "--resume", "a", "--recycle", "b"], "--recycle"),
        (["train", "--recycle", str(place.run)], "output_dir"),
        (["train", "--recycle", str(place.run), "--print_config=1"], "print_config"),
        (["train", "--resume", str(place.run), "--seed", "4"], "seed"),
        (["evaluate", str(place.run), "--config", "x"], "config"),
        (["reproduce", "--seeds", "1", "1"], "--seeds"),
        (["reproduce", "--labels_by", "random"], "--labels_by"),
        (["reproduce", "--labels_by", "x", "--num_labels", "5"], "--labels_by"),
        (["reproduce", "--labels_by", "random", "--num_labels", "0"], "--num_labels"),
        (["reproduce", "--labels_by", "random", "--num_labels", "5"], "model_a.pretrained"),
        (["reproduce", "--tracking", "wandb"], "tracking"),
        (["calibrate", "--cotrain.optimizer", "keep"], "cotrain.optimizer"),
        (["calibrate", "--data.test_fraction", "0"], "data.test_fraction"),
        (["plan", "--num_ranks", "3", "--num_nodes", "2"], "--num_ranks"),
        (["queue", f"--output={place.folder / 'new.csv'}", "--strategy=margin"], "--strategy"),
    ]
    arguments, named = rng.choice(cases)
    return Case(arguments, (named,), "stray")


def complaint_of(case: Case, code: object, errors: str) -> str:
    """What is wrong with how a command has ended; empty where it ended as it should."""
    if code != 2:
        return f"ended with {code}"
    lines = errors.splitlines()
    if len(lines) != 1 or not lines[0].startswith("error: ") or not lines[0].isprintable():
        return "is not one line of printable text"
    if not any(name in lines[0] for name in case.named):
        return f"names none of {case.named}"
    return "" if len(lines[0]) < 700 else "is too long"


def _run_here(case: Case) -> tuple[object, str]:
    """Exit code, or what was raised, and what came to stderr."""
    from cotrain_dist.cli.main import main

    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
        try:
            return main(case.arguments), errors.getvalue()
        except BaseException:
            return traceback.format_exc(), errors.getvalue()


def main() -> int:
    """`NUM SEED FOLDER`: run cases in one process that has no torch yet; print the bad ones."""
    num, seed, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    place = Place.make(folder)
    os.chdir(folder)  # where a default such as runs/cotrain would be made
    before = place.content()
    num_run = 0
    for case in draw_cases(num, seed, place):
        code, errors = _run_here(case)
        what = complaint_of(case, code, errors)
        if place.content() != before:
            what = "has written something"
        if "torch" in sys.modules:
            what = "has imported torch"
        if what:
            print(json.dumps({"arguments": case.arguments, "what": what, "errors": errors}))
            return 1
        num_run += 1
    print(json.dumps({"num_run": num_run}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Settings from YAML and the command line: what is accepted, and every one-line error."""

import ast
import os
import subprocess
import sys
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import pytest
import yaml

from cotrain_dist.config import Config, DataConfig, ModelConfig, parsing
from cotrain_dist.config.of_run import config_of_run
from cotrain_dist.config.parsing import config_from_yaml, parse_config
from cotrain_dist.config.schema import RENAMED, REPLACED, all_keys
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.errors import UserError

REPOSITORY = Path(__file__).parents[2]
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
SETTINGS = sorted((REPOSITORY / "cotrain_dist" / "config").glob("*.py"))

# argument or arguments, the key that is named, a fragment of the rest of the message
RULES = [
    ("--checkpoint.every_minutes 0", "checkpoint.every_minutes", ": 0.0: must be above 0"),
    ("--checkpoint.every_steps 0", "checkpoint.every_steps", ": 0: must be at least 1"),
    ("--checkpoint.keep 0", "checkpoint.keep", ": 0: must be at least 1"),
    (
        "--pretrain.fit_head true --model_b.pretrained true",
        "pretrain.fit_head",
        ": true: model_a begins with random weights",
    ),
    ("--model_b.train head", "model_b.train", ": head: needs a start, since random weights"),
    (
        "--model_a.train head --model_a.pretrained x --model_a.head_penalty 0",
        "model_a.head_penalty",
        ": 0.0: must be above 0",
    ),
    ("--data.source imagefolder", "data.root", ": (none): data.source imagefolder needs it"),
    ("--data.source csv", "data.table", ": (none): data.source csv needs it; give --data.table"),
    ("--data.source hub", "data.name", ": (none): data.source hub needs it; give --data.name"),
    ("--data.source torchvision", "data.name", ": (none): data.source torchvision needs it"),
    ("--data.image_size 7", "data.image_size", ": 7: must be 8 to 4096"),
    ("--data.center_crop_fraction 1.5", "data.center_crop_fraction", ": 1.5: must be above 0"),
    ("--data.crop_min_area 0", "data.crop_min_area", ": 0.0: must be above 0"),
    ("--data.num_workers -1", "data.num_workers", ": -1: must not be negative"),
    ("--data.cache_gb 0", "data.cache_gb", ": 0.0: must be above 0"),
    ("--data.test_fraction 1", "data.test_fraction", ": 1.0: must lie between"),
    ("--data.labeled_fraction=0", "data.labeled_fraction", ": 0.0: must lie between"),
    ("--data.audit_images -1", "data.audit_images", ": -1: must not be negative"),
    ("--data.test_per_class 0", "data.test_per_class", ": 0: must be at least 1"),
    ("--data.labeled_per_class 0", "data.labeled_per_class", ": 0: must be at least 1"),
    ("--data.validation_fraction -0.1", "data.validation_fraction", ": -0.1: must be at least 0"),
    ("--data.labeled_fraction 0.4", "data.labeled_fraction", ": 0.4: T, V, L_A and L_B"),
    (
        "--model_a.pretrained true --model_a.init_from x",
        "model_a.init_from",
        ": x: the same model asks for pretrained",
    ),
    ("--model_b.drop_rate 1", "model_b.drop_rate", ": 1.0: must be at least 0"),
    ("--model_a.drop_path_rate -1", "model_a.drop_path_rate", ": -1.0: must be at least 0"),
    ("--model_a.image_size 7", "model_a.image_size", ": 7: must be 8 to 4096 pixels"),
    ("--model_b.image_size 0", "model_b.image_size", ": 0: must be 8 to 4096 pixels"),
    ("--model_a.crop_min_area 0", "model_a.crop_min_area", ": 0.0: must be above 0 and at most 1"),
    ("--model_b.crop_min_area 1.5", "model_b.crop_min_area", ": 1.5: must be above 0"),
    ("--model_a.weight_decay -1", "model_a.weight_decay", ": -1.0: must not be negative"),
    ("--model_b.weight_decay -0.5", "model_b.weight_decay", ": -0.5: must not be negative"),
    ("--model_a.learning_rate_scale 0", "model_a.learning_rate_scale", ": 0.0: must be above 0"),
    ("--model_b.learning_rate_scale -2", "model_b.learning_rate_scale", ": -2.0: must be above 0"),
    ("--train.batch_size 1", "train.batch_size", ": 1: must be at least 2"),
    ("--train.accumulation_steps 0", "train.accumulation_steps", ": 0: must be at least 1"),
    ("--train.exact_elastic -1", "train.exact_elastic", ": -1: must not be negative"),
    (
        "--train.norm frozen --model_a.pretrained true",
        "train.norm",
        ": frozen: keeps the statistics that a model comes with, and model_b begins at random",
    ),
    (
        "--train.exact_elastic 4 --train.norm sync",
        "train.norm",
        ": sync: train.exact_elastic cuts each step",
    ),
    (
        "--train.exact_elastic 4 --train.accumulation_steps 2",
        "train.accumulation_steps",
        ": 2: train.exact_elastic cuts each step",
    ),
    (
        "--train.exact_elastic 4 --consistency.fairness 0.01 --consistency.teacher own "
        "--consistency.policy free --data.augment crop_flip",
        "consistency.fairness",
        ": 0.01: is a loss of all images of a step at once, and train.exact_elastic",
    ),
    ("--train.weight_decay -1", "train.weight_decay", ": -1.0: must not be negative"),
    ("--train.label_smoothing 1", "train.label_smoothing", ": 1.0: must be at least 0"),
    ("--train.clip_grad_norm 0", "train.clip_grad_norm", ": 0.0: must be above 0"),
    ("--train.mixup -1", "train.mixup", ": -1.0: must not be negative; 0 switches it off, 0.2"),
    ("--train.cutmix -1", "train.cutmix", ": -1.0: must not be negative; 0 switches it off, 1 is"),
    ("--train.ema_decay 1", "train.ema_decay", ": 1.0: must be at least 0 and below 1"),
    *(
        (
            f"--train.{name} {value} --model_a.train head --model_a.pretrained x "
            "--model_b.train head --model_b.pretrained x",
            f"train.{name}",
            f": {value}: does nothing where both models have train: head",
        )
        for name, value in (
            *(("pseudo_view", "strong"), ("mixup", 0.2), ("cutmix", 1.0), ("ema_decay", 0.9)),
        )
    ),
    (
        "--train.pseudo_view strong",
        "data.augment",
        ": auto (off for digits): train.pseudo_view needs weak and strong views",
    ),
    ("--consistency.threshold 1", "consistency.threshold", ": 1.0: must be at least 0 and below"),
    ("--consistency.temperature 0", "consistency.temperature", ": 0.0: must be above 0"),
    ("--consistency.weight -1", "consistency.weight", ": -1.0: must be above 0"),
    ("--consistency.ratio 0", "consistency.ratio", ": 0: must be at least 1; try 7"),
    ("--consistency.fairness -1", "consistency.fairness", ": -1.0: must not be negative"),
    ("--consistency.momentum 1", "consistency.momentum", ": 1.0: must be at least 0 and below 1"),
    (
        "--consistency.fairness 0.01",
        "consistency.fairness",
        ": 0.01: belongs to consistency.policy free",
    ),
    (
        "--consistency.momentum 0.9",
        "consistency.momentum",
        ": 0.9: belongs to consistency.policy free",
    ),
    (
        "--consistency.teacher peer --model_b.train head --model_b.pretrained x",
        "consistency.teacher",
        ": peer: model_b.train is head, and a fit of features has no views",
    ),
    (
        "--consistency.teacher own --data.augment crop_flip --model_b.augment off",
        "model_b.augment",
        ": off: consistency.teacher needs weak and strong views; give crop_flip or strong",
    ),
    (
        "--consistency.teacher ema --data.augment crop_flip",
        "consistency.teacher",
        ": ema: train.ema_decay is 0, so there is none",
    ),
    *(
        (
            f"--consistency.teacher own --data.augment crop_flip --train.{name} {value}",
            f"train.{name}",
            f": {shown}: consistency.ratio decides which images a step of Step 2 holds",
        )
        for name, value, shown in (
            ("least_labeled_fraction", "0.5", "0.5"),
            ("class_balanced", "true", "True"),
        )
    ),
    (
        "--consistency.teacher own --data.augment crop_flip --consistency.policy free "
        "--consistency.fairness 0.01 --train.accumulation_steps 2",
        "consistency.fairness",
        ": 0.01: is a loss of all images of a step at once",
    ),
    ("--pretrain.num_epochs -1", "pretrain.num_epochs", ": -1: must not be negative"),
    ("--cotrain.learning_rate 0", "cotrain.learning_rate", ": 0.0: must be above 0"),
    ("--pretrain.warmup_epochs 50", "pretrain.warmup_epochs", ": 50: must be at least 0 and below"),
    ("--cotrain.min_learning_rate 1", "cotrain.min_learning_rate", ": 1.0: must lie between 0"),
    (
        "--pretrain.stop_at_train_accuracy 2",
        "pretrain.stop_at_train_accuracy",
        ": 2.0: must be above 0",
    ),
    ("--pretrain.patience_epochs 0", "pretrain.patience_epochs", ": 0: must be at least 1"),
    ("--pretrain.eval_every_epochs 0", "pretrain.eval_every_epochs", ": 0: must be at least 1"),
    ("--train.pseudo_weight 0", "train.pseudo_weight", ": 0.0: must be above 0"),
    ("--train.pseudo_ramp_epochs -1", "train.pseudo_ramp_epochs", ": -1: must not be negative"),
    (
        "--train.least_labeled_fraction 1",
        "train.least_labeled_fraction",
        ": 1.0: must be at least 0 and below 1",
    ),
    (
        "--train.least_labeled_fraction 0.91 --train.batch_size 10",
        "train.least_labeled_fraction",
        ": 0.91: leaves no image of R in a step of 10 (train.batch_size)",
    ),
    ("--selection.threshold 1", "selection.threshold", ": 1.0: must lie between 0 and 1"),
    (
        "--selection.rule mean_soft --selection.threshold 0.5",
        "selection.threshold",
        ": 0.5: selection.rule mean_soft takes none; give null",
    ),
    (
        "--selection.threshold_policy free --selection.threshold 0.5",
        "selection.threshold",
        ": 0.5: selection.threshold_policy free takes none; give null",
    ),
    (
        "--selection.rule mean_soft --selection.threshold_policy flex",
        "selection.threshold_policy",
        ": flex: selection.rule mean_soft takes all of U",
    ),
    ("--selection.top_k_per_class 0", "selection.top_k_per_class", ": 0: must be at least 1"),
    (
        "--selection.rule mean_hard --selection.weights agreement",
        "selection.weights",
        ": agreement: with selection.rule mean_hard both models give the label together",
    ),
    ("--pool.batch_size 0", "pool.batch_size", ": 0: must be at least 1"),
    ("--selection.targets soft", "selection.targets", ": soft: needs the probabilities of all"),
    ("--selection.rule mean_hard", "selection.rule", ": mean_hard: needs the probabilities of all"),
    ("--selection.sharpen 0", "selection.sharpen", ": 0.0: must be above 0"),
    ("--structure.kind graph", "structure.kind", ": graph: needs the probabilities of all classes"),
    (
        "--structure.features current --model_b.train head --model_b.init_from x",
        "structure.features",
        ": current: model_b.train is head, whose features stay as they were",
    ),
    (
        "--consistency.policy free --consistency.threshold 0.9",
        "consistency.threshold",
        ": 0.9: consistency.policy free takes none",
    ),
    ("--structure.spread 1", "structure.spread", ": 1.0: must lie between 0 and 1"),
    ("--structure.vote_weight 2", "structure.vote_weight", ": 2.0: must be at least 0 and at most"),
    ("--structure.shrinkage 0", "structure.shrinkage", ": 0.0: must be above 0"),
    ("--structure.num_steps 0", "structure.num_steps", ": 0: must be at least 1"),
    (
        "--cotrain.final_epochs -1",
        "cotrain.final_epochs",
        ": -1: must not be negative, and",
    ),
    ("--cotrain.final_epochs 1", "cotrain.final_epochs", ": 1: needs the probabilities of all"),
    ("--cotrain.epochs_per_round 0", "cotrain.epochs_per_round", ": 0: must be at least 1"),
    (
        "--cotrain.epochs_per_round 2 --cotrain.restart start --cotrain.warmup_epochs 2",
        "cotrain.warmup_epochs",
        ": 2: must be at least 0 and below cotrain.epochs_per_round, 2",
    ),
    ("--distributed.timeout_seconds 0", "distributed.timeout_seconds", ": 0.0: must be at least 1"),
    (
        "--distributed.stalled_after_seconds 2",
        "distributed.stalled_after_seconds",
        ": 2.0: must not be below distributed.lost_after_seconds, 60",
    ),
    ("--seed -1", "seed", ": -1: must not be negative"),
    (
        "--pretrain.num_epochs 0 --cotrain.num_epochs 0 --cotrain.warmup_epochs 0",
        "cotrain.num_epochs",
        ": 0: pretrain.num_epochs is 0 as well",
    ),
]
COMMAND_LINE_MISTAKES = [
    (["--selection.treshold", "0.9"], "selection.treshold: 0.9: no such key; did you mean sel"),
    (["--select.thresh", "0.9"], "select.thresh: 0.9: no such key; did you mean selection.thresh"),
    (["--see", "1"], "see: 1: no such key; did you mean seed."),
    (["--see"], "see: (empty): no such key; did you mean seed."),
    (["--pool.chunk_size", "9"], "pool.chunk_size: 9: is called pool.batch_size now; write the"),
    (["--data.cache_side", "96"], "data.cache_side: 96: is gone, data.cache has taken its place;"),
    (["--output-dir=x"], "output-dir: x: no such key; did you mean output_dir."),
    (["--xyz=1"], "xyz: 1: no such key; --help lists all keys."),
    (["--placement.ranks_a+", "1"], "placement.ranks_a+: 1: no such key"),
    (["--data", "5"], "data: 5: is a section, not a key; give the keys in it, such as data.source"),
    (["--seed", "1", "--seed=1"], "seed: 1: is given twice on the command line; keep one"),
    (["--config", "a.yaml", "--config", "b.yaml"], "config: b.yaml: is given twice"),
    (["--seed"], "seed: (empty): needs a value; write --seed VALUE."),
    (["--seed", "--labels", "own"], "seed: (empty): needs a value"),
    (["--print_config=full"], "print_config: full: takes no value; write --print_config alone."),
    (["leftover"], "command line: leftover: belongs to no key; write --KEY VALUE."),
    (["--seed", "1", "2"], "command line: 2: belongs to no key"),
    (["--"], "command line: --: belongs to no key"),
    (["-s", "1"], "command line: -s: belongs to no key"),
    (["--seed", "abc"], "seed: abc: must be a whole number; leave it out for the default, 0."),
    (["--seed", "1.5"], "seed: 1.5: must be a whole number"),
    (["--seed", "true"], "seed: true: must be a whole number"),
    (["--seed", "null"], "seed: null: must be a whole number"),
    (["--seed", "9" * 5000], "seed: 999"),
    (["--seed="], "seed: (empty): must be a whole number"),
    (["--seed", "9" * 17], "seed: 99999999999999999: is too large a number; give one up to 9007"),
    (["--data.root", "a\0"], "data.root: a\\x00: holds a NUL or bytes that are no UTF-8; give"),
    (
        ["--output_dir", "null"],
        "output_dir: null: must be text; leave it out for the default, runs",
    ),
    (["--selection.threshold", "x\ny"], "selection.threshold: x y: must be a finite number"),
    (["--train.weight_decay", ".nan"], "train.weight_decay: .nan: must be a finite number"),
    (["--train.clip_grad_norm", ".inf"], "train.clip_grad_norm: .inf: must be a finite number or"),
    (["--data.test_per_class", "x"], "x: must be a whole number or null; leave it out for the def"),
    (["--placement.ranks_a", "0"], "0: must be a list of whole numbers such as [0, 1] or null"),
    (["--placement.ranks_a", "[0, x]"], "placement.ranks_a: [0, x]: must be a list"),
    (["--train.channels_last", "5"], "5: must be true or false; leave it out for the default, tr"),
    (["--exchange", "peers"], "exchange: peers: must be one of alternate, peer, own, none; leave"),
    (["--exchange", ""], "exchange: (empty): must be one of"),
    (["--config", "nowhere.yaml"], "config: nowhere.yaml: cannot be read: No such file"),
    (["--config", "."], "config: .: cannot be read: Is a directory"),
]
FILE_MISTAKES = [
    ("a: 1\n", "a: 1: no such key (FILE, line 1); --help lists"),
    (
        "seed: 1\nselection:\n  treshold: 0.9\n",
        "selection.treshold: 0.9: no such key (FILE, line 3)",
    ),
    ("config: x.yaml\n", "config: x.yaml: no such key (FILE, line 1)"),
    ("print_config: true\n", "print_config: true: no such key (FILE, line 1)"),
    ("<<: {seed: 1}\n", "<<: {'seed': '1'}: no such key (FILE, line 1)"),
    ("? [a, b]\n: 1\n", "(a list or mapping): 1: no such key (FILE, line 1)"),
    ("data: 5\n", "data: 5: is a section, not a key (FILE, line 1); give the keys in it"),
    ("data: [a]\n", "data: ['a']: is a section, not a key"),
    ("data:\n", "data: (empty): is a section, not a key"),
    ("data: &x {data: *x}\n", "FILE: line 1: is not YAML (found unconstructable recursive node)"),
    ("seed: {a: 1}\n", "seed: {'a': '1'}: must be a whole number (FILE, line 1)"),
    ("seed: [1]\n", "seed: ['1']: must be a whole number (FILE, line 1)"),
    ("output_dir: [a]\n", "output_dir: ['a']: must be text (FILE, line 1)"),
    ("output_dir:\n", "output_dir: (empty): must be text (FILE, line 1)"),
    ("output_dir: !!python/object/apply:os.getcwd []\n", "output_dir: []: must be text"),
    ("\nseed: abc\n", "seed: abc: must be a whole number (FILE, line 2); leave it out"),
    ("labels: on\n", "labels: on: must be one of own, shared (FILE, line 1)"),
    ("seed: 1\nlabels: own\nseed: 1\n", "seed: 1: is given twice (FILE, lines 1 and 3); keep"),
    ("data: {}\npool: {}\ndata: {}\n", "data: {}: is given twice (FILE, lines 1 and 3)"),
    ("data:\n  root: a\n  root: b\n", "data.root: b: is given twice (FILE, lines 2 and 3)"),
    ("data:\n  root: a\ndata.root: b\n", "data.root: b: is given twice (FILE, lines 2 and 3)"),
    ("- seed\n", "FILE: line 1: the file is no mapping of keys; write lines such as seed: 0."),
    ("text", "FILE: line 1: the file is no mapping"),
    ("", "FILE: line 1: the file is no mapping"),
    ("seed: 1\nlabels: [own\n", "FILE: line 3: is not YAML (expected ',' or ']'"),
    ("seed: 1\nlabels: own: shared\n", "FILE: line 2: is not YAML (mapping values are not allowed"),
    ("seed: 1\n---\nseed: 2\n", "FILE: line 2: is not YAML (but found another document)"),
    ("seed: 1\nlabels: \0\n", "FILE: line 2: is not YAML (unacceptable character #x0000"),
    ("seed: " + 2000 * "[", "FILE: line 1: is not YAML (maximum recursion depth exceeded"),
]


def _error(argv: list[str]) -> pytest.ExceptionInfo[UserError]:
    with pytest.raises(UserError) as caught:
        parse_config(argv, "prog")
    return caught


def _written(folder: Path, text: str) -> str:
    path = folder / "settings.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_without_arguments_the_defaults_stand() -> None:
    assert parse_config([], "prog") == Config()


@pytest.mark.parametrize(
    ("argument", "text", "expected"),
    [
        ("seed", "7", 7),
        ("selection.threshold", "9e-1", 0.9),
        ("pretrain.learning_rate", "1e-3", 0.001),
        ("train.weight_decay", "0", 0.0),
        ("train.clip_grad_norm", "1", 1.0),
        ("train.clip_grad_norm", "null", None),
        ("train.clip_grad_norm", "none", None),
        ("data.test_per_class", "None", None),
        ("data.test_per_class", "10", 10),
        ("data.root", "none", None),
        ("data.root", "~", None),
        ("data.root", "/data/2024", "/data/2024"),
        ("data.root", "1e-3", "1e-3"),
        ("output_dir", "2024", "2024"),
        ("output_dir", "2024-01-01", "2024-01-01"),
        ("output_dir", "yes", "yes"),
        ("data.augment", "off", "off"),
        ("exchange", "none", "none"),
        ("exchange", "own", "own"),
        ("labels", "own", "own"),
        ("train.channels_last", "false", False),
        ("train.channels_last", "no", False),
        ("train.channels_last", "on", True),
        ("placement.ranks_a", "[0, 2]", [0, 2]),
        ("placement.ranks_a", "[]", []),
        ("placement.ranks_a", "null", None),
    ],
)
def test_a_value_means_the_same_everywhere(
    argument: str, text: str, expected: object, tmp_path: Path
) -> None:
    section, _, name = argument.rpartition(".")
    nested = f"{section}:\n  {name}: {text}\n" if section else f"{name}: {text}\n"
    ways = [
        [f"--{argument}", text],
        [f"--{argument}={text}"],
        ["--config", _written(tmp_path, nested)],
    ]
    for argv in ways:
        config = parse_config(argv, "prog")
        value = getattr(getattr(config, section) if section else config, name)
        assert value == expected
        assert type(value) is type(expected)


def test_an_empty_value_in_yaml_is_null() -> None:
    assert config_from_yaml("data:\n  root:\n", "x.yaml").data.root is None


def test_dotted_keys_and_empty_sections_are_fine_in_yaml() -> None:
    config = config_from_yaml("selection.threshold: 0.9\ndata: {}\n", "x.yaml")
    assert config.selection.threshold == 0.9


def test_a_value_may_hold_equals_signs_and_dashes() -> None:
    assert parse_config(["--output_dir=--a=b"], "prog").output_dir == "--a=b"


@pytest.mark.parametrize("position", [0, 2])
def test_the_command_line_wins_wherever_config_stands(position: int, tmp_path: Path) -> None:
    argv = ["--selection.threshold", "0.9"]
    argv[position:position] = [
        "--config",
        _written(tmp_path, "selection: {threshold: 0.7}\nseed: 4"),
    ]
    config = parse_config(argv, "prog")
    assert (config.selection.threshold, config.seed) == (0.9, 4)


def test_the_command_line_mends_a_rule_that_the_file_breaks(tmp_path: Path) -> None:
    path = _written(tmp_path, "data: {source: imagefolder}")
    assert parse_config(["--config", path, "--data.root", "x"], "prog").data.root == "x"


def test_the_tree_is_made_of_the_real_classes() -> None:
    config = parse_config(["--model_b.name", "resnet18"], "prog")
    assert (type(config), type(config.data)) == (Config, DataConfig)
    assert config.model_b == ModelConfig(name="resnet18")
    assert config.model_a == ModelConfig()


def test_environment_variables_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    parsing._build_parser.cache_clear()
    monkeypatch.setenv("JSONARGPARSE_DEFAULT_ENV", "true")
    for name in ("SEED", "PROG_SEED", "_SEED"):
        monkeypatch.setenv(name, "5")
    assert parse_config(["--labels", "own"], "prog").seed == 0
    parsing._build_parser.cache_clear()


@pytest.mark.parametrize(("arguments", "key", "fragment"), RULES)
def test_each_rule_of_the_tree_comes_through(arguments: str, key: str, fragment: str) -> None:
    error = _error(arguments.split()).value
    assert error.key == key
    assert str(error).startswith(key + fragment)
    assert "\n" not in str(error)


def test_a_rule_is_not_reworded() -> None:
    with pytest.raises(UserError) as caught:
        DataConfig(image_size=7)
    assert str(_error(["--data.image_size", "7"]).value) == str(caught.value)
    with pytest.raises(UserError) as caught:
        ModelConfig(drop_rate=2.0)
    assert str(_error(["--model_b.drop_rate", "2"]).value) == f"model_b.{caught.value}"


@pytest.mark.parametrize(("argv", "message"), COMMAND_LINE_MISTAKES)
def test_mistakes_on_the_command_line(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    error = _error(argv).value
    assert message in str(error)
    assert str(error).startswith(f"{error.key}: ")
    assert "\n" not in str(error)
    assert len(str(error)) < 200


@pytest.mark.parametrize(("text", "message"), FILE_MISTAKES)
def test_mistakes_in_a_file(text: str, message: str, tmp_path: Path) -> None:
    path = _written(tmp_path, text)
    error = _error(["--config", path]).value
    assert str(error).startswith(message.replace("FILE", path))
    assert "\n" not in str(error)
    with pytest.raises(UserError) as caught:
        config_from_yaml(text, "RUN/config.yaml")
    assert str(caught.value).startswith(message.replace("FILE", "RUN/config.yaml"))


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read: it is not text in UTF-8" in str(_error(["--config", str(path)]).value)


@pytest.mark.parametrize(
    ("arguments", "cut"),
    [
        ("", 0.8),
        ("--selection.threshold 0.5", 0.5),
        (
            "--pool.keep probabilities --selection.rule mean_hard",
            0.8,
        ),
        ("--selection.threshold_policy free", None),
        ("--pool.keep probabilities --selection.rule mean_soft", None),
        ("--pool.keep probabilities --selection.rule mean_soft --selection.threshold null", None),
        ("--train.least_labeled_fraction 0.9 --train.batch_size 10", 0.8),
    ],
)
def test_the_threshold_that_votes_are_compared_with(arguments: str, cut: float | None) -> None:
    assert parse_config(arguments.split(), "prog").selection.cut == cut


def test_a_wrong_type_in_the_file_is_not_hidden_by_the_command_line(tmp_path: Path) -> None:
    path = _written(tmp_path, "seed: abc")
    assert _error(["--config", path, "--seed", "1"]).value.key == "seed"


@pytest.mark.parametrize("sources", [SETTINGS, [Path(parsing.__file__)]], ids=["config", "parsing"])
def test_every_raise_is_hit(
    sources: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {
        (path, node.lineno)
        for path in sources
        for function in ast.parse(path.read_text(encoding="utf-8")).body
        # Of folders and of runs: test_starts.py, cli/test_first_hour.py, cli/test_recycle.py.
        if path.name not in {"places.py", "of_run.py", "starts.py"}
        and getattr(function, "name", "") != "resolve_role"
        for node in ast.walk(function)
        # A bare `raise` passes an error on, and the two SystemExits have tests of their own.
        if isinstance(node, ast.Raise) and node.exc and "SystemExit" not in ast.unparse(node.exc)
    }
    assert len(expected) > 5
    monkeypatch.chdir(tmp_path)
    argvs = [arguments.split() for arguments, _, _ in RULES]
    argvs += [argv for argv, _ in COMMAND_LINE_MISTAKES]
    argvs += [["--config", str(tmp_path / f"{i}.yaml")] for i in range(len(FILE_MISTAKES))]
    for i, (text, _) in enumerate(FILE_MISTAKES):
        (tmp_path / f"{i}.yaml").write_text(text, encoding="utf-8")
    entries = [_error(argv).traceback[-1] for argv in argvs]
    # pytest counts lines from 0.
    assert expected <= {(Path(entry.path), entry.lineno + 1) for entry in entries}


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["--data.root", "Ünï: 'x' #1", "--output_dir", "123", "--placement.ranks_a", "[0, 3]"],
        ["--exchange", "none", "--train.clip_grad_norm", "1e-7", "--train.channels_last", "no"],
        ["--output_dir", " two  spaces\tand: a tab\nand lines\n" + 30 * "long words "],
    ],
)
def test_yaml_round_trip(argv: list[str], tmp_path: Path) -> None:
    config = parse_config(argv, "prog")
    text = config_to_yaml(config)
    assert config_from_yaml(text, "x.yaml") == config
    assert config_to_yaml(parse_config(["--config", _written(tmp_path, text)], "prog")) == text
    assert yaml.safe_load(text).keys() == asdict(config).keys()
    assert list(yaml.safe_load(text)) == [field.name for field in fields(Config)]


def test_print_config_prints_the_resolved_yaml(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _written(tmp_path, "seed: 4\nlabels: shared\n")
    with pytest.raises(SystemExit) as caught:
        parse_config(["--config", path, "--print_config", "--labels", "own"], "prog")
    assert caught.value.code == 0
    printed = config_from_yaml(capsys.readouterr().out, "stdout")
    assert (printed.seed, printed.labels) == (4, "own")


def test_print_config_still_refuses_mistakes() -> None:
    assert _error(["--print_config", "--seed", "-1"]).value.key == "seed"


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--nonsense", "--help"]])
def test_help_lists_every_key_with_its_line(
    argv: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    with pytest.raises(SystemExit) as caught:
        parse_config(argv, "cotrain-dist train")
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("usage: cotrain-dist train [--config FILE]")
    assert "--print_config" in text
    assert "ranks_a+" not in text
    default = Config()
    for field in fields(Config):
        section = getattr(default, field.name)
        names = [field.name]
        if is_dataclass(section):
            names = [f"{field.name}.{inner.name}" for inner in fields(section)]
        for name in names:
            assert f"  --{name} " in text
            assert all_keys()[name].doc[:40] in text
    assert all(key.doc for key in all_keys().values())


def test_importing_and_parsing_load_no_torch() -> None:
    code = (
        "import sys; from cotrain_dist.config.parsing import parse_config;"
        "parse_config(['--seed', '1'], 'prog'); sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_shipped_configs_parse(path: Path) -> None:
    assert isinstance(parse_config(["--config", str(path)], "prog"), Config)


@pytest.mark.parametrize(("old", "new"), list(RENAMED.items()))
def test_a_renamed_key_names_its_successor(old: str, new: str, tmp_path: Path) -> None:
    section, name = old.split(".")
    file = _written(tmp_path, f"{section}:\n  {name}: 7\n")
    for argv, where in ([f"--{old}", "7"], ""), (["--config", file], f" ({file}, line 2)"):
        with pytest.raises(UserError) as caught:
            parse_config(argv, "prog")
        assert str(caught.value) == f"{old}: 7: is called {new} now{where}; write the new name."


@pytest.mark.parametrize(("old", "new"), list(REPLACED.items()))
def test_a_replaced_key_names_what_is_there_now(old: str, new: str, tmp_path: Path) -> None:
    section, name = old.split(".")
    file = _written(tmp_path, f"{section}:\n  {name}: 7\n")
    for argv, where in ([f"--{old}", "7"], ""), (["--config", file], f" ({file}, line 2)"):
        with pytest.raises(UserError) as caught:
            parse_config(argv, "prog")
        assert str(caught.value) == (
            f"{old}: 7: is gone, {new} has taken its place{where}; leave it out, or see {new}."
        )
    (tmp_path / "config.yaml").write_text(f"{section}:\n  {name}: 7\nseed: 3\n")
    assert config_of_run(tmp_path, [], "prog").seed == 3, "a run of an earlier version is read"


def test_a_run_of_an_earlier_version_is_read_under_the_new_names(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "pool:\n  chunk_size: 7\ndata:\n  groups_from: runs/other\nseed: 3\n"
    )
    config = config_of_run(tmp_path, ["--device", "cpu"], "prog")
    assert (config.pool.batch_size, config.data.splits_from, config.seed) == (7, "runs/other", 3)
    assert (config.device, config.output_dir) == ("cpu", str(tmp_path))


def test_print_config_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.yaml").write_text("seed: 3\n")
    with pytest.raises(SystemExit) as caught:
        config_of_run(tmp_path, ["--print_config"], "prog")
    assert caught.value.code == 0
    assert yaml.safe_load(capsys.readouterr().out)["seed"] == 3
    with pytest.raises(SystemExit):
        config_of_run(tmp_path, ["--help"], "prog")

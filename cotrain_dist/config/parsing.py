"""Settings from a YAML file and the command line, and back to YAML.

jsonargparse converts each value to the type of its field and formats the help. This module finds
the keys, because a mistake in them must name the key, the place and the way out in one line.
A value means the same in a file as on the command line: both arrive as text, so YAML's own
guesses (1e-3 is text, `no` is false) never apply.
"""

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from cotrain_dist.config.recipes import defaults_of
from cotrain_dist.config.schema import OPTIONS, RENAMED, REPLACED, all_keys, sections
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.config.tree import Config
from cotrain_dist.errors import UserError
from cotrain_dist.printable import is_utf8

_T = TypeVar("_T")
LARGEST_WHOLE = 2**53
"""The most that a whole number may be: beyond it JSON readers and timers round or overflow."""

_NULL_WORDS = ("", "~", "null", "none")
_EXPECTED = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: "text",
    list[int]: "a list of whole numbers such as [0, 1]",
    type(None): "null",
}


START_WITH = """What most runs need: --data.root FOLDER (one folder per class) or --data.table
FILE.csv, --data.image_size, --model_a.name and --model_b.name, or --model_a.pretrained and
--model_b.pretrained with --model_a.train head and --model_b.train head, and --output_dir.
configs/own_images.yaml is a start for few labels. Beside the keys below, train takes --resume RUN
(go on after its last commit; RUN auto finds the run in --output_dir, or begins one), --time 30m
(image size and epochs are chosen to end within it), --allow-config-change (with other settings),
--max-restarts N --num-processes N (start again where a rank was lost), --recycle RUN (a new run
that begins with its models and splits) and --extra-labels FILE.csv (labels of images that queue
listed). Example: cotrain-dist train --config configs/own_images.yaml --data.table labels.csv
--data.root images --data.unlabeled images --output_dir runs/mine"""


@dataclass(frozen=True)
class Given:
    """A value as the user wrote it: text, or lists and mappings of text; and where."""

    value: Any
    where: str = ""


def parse_config(
    argv: Sequence[str], prog: str, defaults: Mapping[str, object] | None = None
) -> Config:
    """The settings that the arguments after the subcommand amount to.

    defaults: values of keys that a command has other defaults for. Where `data.table` or
    `data.root` is given without `data.source`, the source is the one that reads it. `--help` and
    `--print_config` print to stdout and exit with 0.
    """
    if {"-h", "--help"} & set(argv):
        _build_parser(prog).print_help()
        raise SystemExit(0)
    options = split_options(argv)
    values: dict[str, object] = {}
    if "config" in options:
        path = options.pop("config").value
        values = convert_all(read_yaml(read_file(path), path))
    print_config = options.pop("print_config", None)
    given = values | convert_all(options)
    values = {**(defaults or {}), **defaults_of(given), **given}
    config = build_tree(Config, _source_of(values) | values)
    if print_config:
        print(config_to_yaml(config), end="")
        raise SystemExit(0)
    return config


def _source_of(values: Mapping[str, object]) -> dict[str, object]:
    """The source of images that a table or a folder amounts to, for who names no source."""
    for key, source in (("data.table", "csv"), ("data.root", "imagefolder")):
        if values.get(key):
            return {"data.source": source}
    return {}


def config_from_yaml(text: str, origin: str) -> Config:
    """The settings of a YAML text; `origin` names its file in errors."""
    return build_tree(Config, convert_all(read_yaml(text, origin)))


# Built once: every value is converted through a parser.
@cache
def _build_parser(prog: str) -> ArgumentParser:
    usage = f"{prog} [--config FILE] [--KEY VALUE ...] [--print_config]"
    parser = ArgumentParser(
        prog=prog, usage=usage, description=START_WITH, exit_on_error=False, default_env=False
    )
    parser.add_argument("--config", metavar="FILE", help=OPTIONS["config"])
    parser.add_argument("--print_config", action="store_true", help=OPTIONS["print_config"])
    titles = {name: f"{name}: {doc}" for name, doc in sections().items()} | {"": "no section"}
    groups = {name: parser.add_argument_group(title) for name, title in titles.items()}
    for name, key in all_keys().items():
        group = groups[name.rpartition(".")[0]]
        action = group.add_argument(f"--{name}", type=key.hint, default=key.default, help=key.doc)
        # A list has a second spelling, --KEY+, that appends to the default: not offered here.
        action.option_strings = [f"--{name}"]
    return parser


def split_options(argv: Sequence[str]) -> dict[str, Given]:
    """The options of a command line by key, each known and given once."""
    # argparse would also take abbreviations and let the last of two equal options win.
    options: dict[str, Given] = {}
    tokens = list(argv)
    while tokens:
        token = tokens.pop(0)
        name, equals, text = token.removeprefix("--").partition("=")
        if not token.startswith("--") or not name:
            raise UserError("command line", _show(token), "belongs to no key", "write --KEY VALUE")
        takes_value = name != "print_config"
        # One dash begins no option: a negative number is a value.
        if takes_value and not equals and tokens and not tokens[0].startswith("--"):
            equals, text = "=", tokens.pop(0)
        check_known(name, Given(text))
        if takes_value and not equals:
            raise UserError(name, _show(text), "needs a value", f"write --{name} VALUE")
        if equals and not takes_value:
            raise UserError(name, _show(text), "takes no value", f"write --{name} alone")
        if name in options:
            rule = "is given twice on the command line"
            raise UserError(name, _show(text), rule, "keep one of the two")
        options[name] = Given(text)
    return options


def check_known(name: str, given: Given) -> None:
    """Raise UserError where `name` is no key, nor an option beside the keys."""
    # Options stand on the command line only, where `where` is empty.
    if name in RENAMED:
        rule = f"is called {RENAMED[name]} now{given.where}"
        raise UserError(name, _show(given.value), rule, "write the new name")
    if name in REPLACED:
        rule = f"is gone, {REPLACED[name]} has taken its place{given.where}"
        raise UserError(name, _show(given.value), rule, f"leave it out, or see {REPLACED[name]}")
    if name in all_keys() or (name in OPTIONS and not given.where):
        return
    if name in sections():
        rule = "is a section, not a key"
        first = next(key for key in all_keys() if key.startswith(f"{name}."))
        way_out = f"give the keys in it, such as {first}"
    else:
        rule = "no such key"
        near = _near_keys(name)
        way_out = f"did you mean {' or '.join(near)}" if near else "--help lists all keys"
    raise UserError(_show(name), _show(given.value), rule + given.where, way_out)


def _near_keys(name: str) -> list[str]:
    """Keys that may be meant: those that end with the same word, else the one spelled alike."""
    same = [key for key in all_keys() if key.rpartition(".")[2] == name]
    # At difflib's own cutoff of 0.6, `version` would be `precision`.
    return same[:3] or difflib.get_close_matches(name, all_keys(), n=1, cutoff=0.7)


def read_file(path: str) -> str:
    """The text of a settings file."""
    try:
        return Path(path).read_text(encoding="utf-8")
    # A file that is not UTF-8 raises UnicodeDecodeError, which is a ValueError.
    except (OSError, ValueError) as error:
        rule = f"cannot be read: {getattr(error, 'strerror', None) or 'it is not text in UTF-8'}"
        raise UserError("config", _show(path), rule, "name a YAML file") from None


def read_yaml(text: str, origin: str, *, is_saved: bool = False) -> dict[str, Given]:
    """The keys of a file; `is_saved`: a run wrote it, maybe under names of an earlier version."""
    try:
        # BaseLoader makes text, lists and mappings only, whatever tags the file holds.
        loader = yaml.BaseLoader(text)
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            rule = "the file is no mapping of keys"
            raise UserError(origin, "line 1", rule, "write lines such as seed: 0")
        return _collect(loader, root, origin, RENAMED if is_saved else {})
    # Thousands of open brackets exhaust the recursion of the YAML parser.
    except (yaml.YAMLError, RecursionError) as error:
        # For a control character PyYAML raises a ReaderError: with a position, without a mark.
        mark = getattr(error, "problem_mark", None)
        line = mark.line if mark else text.count("\n", 0, getattr(error, "position", 0))
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        rule = f"is not YAML ({problem})"
        raise UserError(origin, f"line {line + 1}", rule, "fix the file there") from None


def _collect(
    loader: yaml.BaseLoader, root: yaml.MappingNode, origin: str, renamed: dict[str, str]
) -> dict[str, Given]:
    lines: dict[str, int] = {}
    collected: dict[str, Given] = {}
    for written, node, line in _entries(root, ""):
        name = renamed.get(written, written)
        given = Given(loader.construct_object(node, deep=True), f" ({origin}, line {line})")
        if name in lines:
            rule = f"is given twice ({origin}, lines {lines[name]} and {line})"
            raise UserError(_show(name), _show(given.value), rule, "keep one of the two")
        lines[name] = line
        if name in sections() and isinstance(node, yaml.MappingNode):
            continue
        if renamed and name in REPLACED:
            continue
        check_known(name, given)
        collected[name] = given
    return collected


def _entries(mapping: yaml.MappingNode, prefix: str) -> Iterator[tuple[str, yaml.nodes.Node, int]]:
    # Nodes and not a mapping: they know their lines, which errors name, and they keep both of two
    # equal keys. PyYAML itself would let the last one win.
    for key, node in mapping.value:
        is_word = isinstance(key, yaml.ScalarNode)
        name = prefix + (key.value if is_word else "(a list or mapping)")
        yield name, node, key.start_mark.line + 1
        if name in sections() and isinstance(node, yaml.MappingNode):
            yield from _entries(node, f"{name}.")


def convert_all(given: dict[str, Given]) -> dict[str, object]:
    """Values of the types that their keys have."""
    return {name: _convert(name, value) for name, value in given.items()}


def _convert(name: str, given: Given) -> object:
    key = all_keys()[name]
    is_literal = get_origin(key.hint) is Literal
    if str(given.value).lower() in _NULL_WORDS and not is_literal:
        # Here and not in jsonargparse, to which `none` is text and `null` may be a folder's name.
        if type(None) in get_args(key.hint):
            return None
        raise _wrong_type(name, given)
    try:
        # env=False, because a variable of jsonargparse's own can switch the environment on.
        parsed = _build_parser("").parse_object({name: given.value}, env=False, defaults=False)
    except ArgumentError:
        raise _wrong_type(name, given) from None
    value: object = parsed[name]
    # No rule of the form `value < limit` would refuse nan.
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong_type(name, given)
    for part in value if isinstance(value, list) else [value]:
        if isinstance(part, int) and abs(part) > LARGEST_WHOLE:
            rule = f"is too large a number{given.where}"
            raise UserError(name, _show(part), rule, f"give one up to {LARGEST_WHOLE}")
        if isinstance(part, str):
            check_text(name, part, given.where)
    return value


def check_text(name: str, text: str, where: str = "") -> None:
    """Raise UserError for what can be no path, and could not be written down as UTF-8."""
    if "\0" in text or not is_utf8(text):
        rule = f"holds a NUL or bytes that are no UTF-8{where}"
        raise UserError(name, _show(text), rule, "give text without them; rename the file")


def _wrong_type(name: str, given: Given) -> UserError:
    key = all_keys()[name]
    is_union = get_origin(key.hint) in (Union, UnionType)
    hints = get_args(key.hint) if is_union else (key.hint,)
    expected = " or ".join(
        "one of " + ", ".join(get_args(hint)) if get_origin(hint) is Literal else _EXPECTED[hint]
        for hint in hints
    )
    default = yaml.safe_dump(key.default).splitlines()[0]
    rule = f"must be {expected}{given.where}"
    return UserError(name, _show(given.value), rule, f"leave it out for the default, {default}")


def _show(value: object) -> str:
    # An error is one line, whatever was pasted as a value.
    text = " ".join(str(value).split()) or "(empty)"
    return text if len(text) <= 60 else f"{text[:57]}..."


def build_tree(cls: type[_T], values: dict[str, object], prefix: str = "") -> _T:
    """A section, and those in it, from values by dotted key."""
    arguments: dict[str, object] = {}
    for name, hint in get_type_hints(cls).items():
        if is_dataclass(hint):
            assert isinstance(hint, type)
            arguments[name] = build_tree(hint, values, f"{prefix}{name}.")
        elif prefix + name in values:
            arguments[name] = values[prefix + name]
    try:
        return cls(**arguments)
    except UserError as error:
        # The rules of a section that stands in the tree twice cannot know which one they are in.
        if prefix and "." not in error.key:
            error.args = (f"{prefix}{error}",)
            error.key = prefix + error.key
        raise

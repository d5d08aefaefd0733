"""The keys of the settings, read off the tree: name, type, default and what each is for."""

import ast
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from cotrain_dist.config.tree import Config

RENAMED = {
    "pool.chunk_size": "pool.batch_size",
    "data.groups_from": "data.splits_from",
}
"""Keys of earlier versions and what they are called now."""

REPLACED = {"data.cache_side": "data.cache"}
"""Keys of earlier versions whose values mean nothing now, and what has taken their place."""

OPTIONS = {
    "config": "YAML file with any of the keys below; the command line wins over it.",
    "print_config": "Print the settings that the other options amount to, as YAML, and exit.",
}
"""Options beside the keys."""


@dataclass(frozen=True)
class Key:
    """A key of the settings: its type, default and one-line description."""

    hint: Any
    default: object
    doc: str


@dataclass(frozen=True)
class KeyDescription:
    """A key for people: dotted name, type, default and one line."""

    name: str
    type: str
    default: str
    doc: str


def describe_keys() -> list[KeyDescription]:
    """Every key, those of the top level first, then section by section."""
    # A stable sort: within the two parts the order of the fields stays.
    keys = sorted(all_keys().items(), key=lambda item: "." in item[0])
    return [
        KeyDescription(name, _type_name(key.hint), _shown(key.default), key.doc)
        for name, key in keys
    ]


def is_key(name: str) -> bool:
    """Whether settings know `name`, as in `--name VALUE`."""
    return name in all_keys() or name in OPTIONS


def _type_name(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(map(str, get_args(hint)))
    parts = get_args(hint)
    if type(None) in parts:
        inner = " or ".join(_type_name(part) for part in parts if part is not type(None))
        return f"{inner} or null"
    return hint.__name__ if isinstance(hint, type) and not parts else str(hint)


def _shown(default: object) -> str:
    return "null" if default is None else str(yaml.safe_dump(default).split("\n")[0])


@cache
def all_keys() -> dict[str, Key]:
    """Every key by its dotted name."""
    return dict(_walk(Config(), ""))


def _walk(section: Any, prefix: str) -> Iterator[tuple[str, Key]]:
    docs = _field_docs(type(section))
    for name, hint in get_type_hints(type(section)).items():
        default = getattr(section, name)
        if is_dataclass(default):
            yield from _walk(default, f"{prefix}{name}.")
        else:
            yield prefix + name, Key(hint, default, docs.get(name, ""))


def _field_docs(cls: type) -> dict[str, str]:
    # Python drops the strings below fields, and jsonargparse reads them with an extra package only.
    tree = ast.parse(inspect.getsource(cls)).body[0]
    assert isinstance(tree, ast.ClassDef)
    return {  # each docstring on one line
        ast.unparse(node.target): " ".join(str(ast.literal_eval(below.value)).split())
        for node, below in pairwise(tree.body)
        if isinstance(node, ast.AnnAssign) and isinstance(below, ast.Expr)
    }


@cache
def sections() -> dict[str, str]:
    """The sections and what they hold."""
    docs = _field_docs(Config)
    return {name: doc.removesuffix(".") for name, doc in docs.items() if name not in all_keys()}

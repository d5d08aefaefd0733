"""Text from files as terminals, logs and spreadsheets may see it: nothing in it acts."""

import re
import unicodedata

_ACTS = re.compile(r"'*[=+\-@\t\r]")
"""How a cell begins that a spreadsheet would take for a formula, or one that was quoted before."""


def printable(text: str) -> str:
    r"""The text on one line, with control characters (also those that turn the direction of
    writing, and bytes that are no UTF-8) shown as escapes.

    >>> print(printable("a\x1b[2J\nb"), printable("Käfer, 甲虫"))
    a\x1b[2J\nb Käfer, 甲虫
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or unicodedata.category(letter) == "Zs"
        else letter.encode("unicode_escape").decode()
        for letter in text
    )


def is_utf8(text: str) -> bool:
    """Whether it can be written down: names of files may hold any bytes."""
    return text.isascii() or text.encode("utf-8", "replace").decode() == text


def to_cell(text: str) -> str:
    """The text as a cell of a CSV file: behind an apostrophe where it would be a formula.

    >>> to_cell("=1+1"), to_cell("-0.5"), to_cell("'@x"), to_cell("a-b")
    ("'=1+1", '-0.5', "''@x", 'a-b')
    """
    return f"'{text}" if _ACTS.match(text) and not _is_number(text) else text


def from_cell(cell: str) -> str:
    """What `to_cell` was given.

    >>> [from_cell(to_cell(text)) for text in ("=1+1", "-0.5", "'@x", "'a'")]
    ['=1+1', '-0.5', "'@x", "'a'"]
    """
    return cell[1:] if cell.startswith("'") and _ACTS.match(cell) else cell


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII) is not None

"""After `coverage combine`: fail unless a test has hit every `raise UserError` of the package."""

import ast
import sys
from pathlib import Path

import coverage

PACKAGE = Path(__file__).parents[1] / "cotrain_dist"


def user_error_lines(path: Path) -> list[int]:
    """First lines of the `raise UserError(...)` statements of a file."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise)
        and isinstance(node.exc, ast.Call)
        and isinstance(node.exc.func, ast.Name)
        and node.exc.func.id in {"UserError", "PeerUserError"}
    ]


def main() -> int:
    """Print what no test has hit; the exit code says whether there is any."""
    data = coverage.Coverage(data_file=str(PACKAGE.parent / ".coverage")).get_data()
    data.read()
    num_raises, missed = 0, []
    for path in sorted(PACKAGE.rglob("*.py")):
        hit = set(data.lines(str(path)) or [])
        for line in user_error_lines(path):
            num_raises += 1
            if line not in hit:
                missed.append(f"{path.relative_to(PACKAGE.parent)}:{line}")
    print(f"user errors: {num_raises - len(missed)} of {num_raises} hit by a test")
    for place in missed:
        print(f"  never raised: {place}")
    return 1 if missed or not num_raises else 0


if __name__ == "__main__":
    sys.exit(main())

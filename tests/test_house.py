"""Rules of the house: layers, sizes, the README's map, and what importing costs."""

import ast
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cotrain_dist"
MODULES = sorted(PACKAGE.rglob("*.py"))

LAYERS = (
    "version",
    "printable",
    "errors",
    "types",
    "config",
    "keys",
    "method",
    "runtime",
    "store",
    "data",
)
LAYERS += ("models", "training", "inference", "planning", "reporting", "study", "cli", "api")
"""From the ground up: a file imports from its own layer and from those before it."""

ENTRY_POINTS = ("__init__", "__main__")


def layer_of(dotted: str) -> int:
    return LAYERS.index(dotted.split(".")[1])


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cotrain_dist."):
            yield node.module or ""
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.startswith("cotrain_dist."))


def dotted_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def test_no_file_imports_from_a_layer_above_its_own() -> None:
    num_imports = 0
    for path in MODULES:
        if path.parent == PACKAGE and path.stem in ENTRY_POINTS:
            continue
        for module in imported_modules(path):
            num_imports += 1
            assert layer_of(module) <= layer_of(dotted_name(path)), f"{path.name} imports {module}"
    assert num_imports > 50


def test_the_layers_are_those_that_there_are() -> None:
    found = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert found - set(ENTRY_POINTS) == set(LAYERS)


CONTEXTS = {"RunContext": "training/context.py", "Images": "training/context.py"}
"""Records that surround a training. Who takes one uses it, or takes plain arguments instead."""


def fields_of(context: str) -> set[str]:
    for node in ast.walk(ast.parse((PACKAGE / CONTEXTS[context]).read_text())):
        if isinstance(node, ast.ClassDef) and node.name == context:
            return {ast.unparse(n.target) for n in node.body if isinstance(n, ast.AnnAssign)}
    raise AssertionError(f"{context} is not in {CONTEXTS[context]}")


def functions_taking(context: str) -> dict[str, tuple[ast.FunctionDef, str, int]]:
    """By name: the function, the parameter that takes the context, and its place."""
    found = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            for index, parameter in enumerate(node.args.args):
                if parameter.annotation and ast.unparse(parameter.annotation) == context:
                    assert node.name not in found, f"two functions are called {node.name}"
                    found[node.name] = (node, parameter.arg, index)
    return found


def fields_used(context: str) -> dict[str, set[str]]:
    """By function: fields that it reads, or that a function reads to which it hands the context."""
    functions = functions_taking(context)
    used: dict[str, set[str]] = {}
    calls: dict[str, set[str]] = {}
    for name, (node, parameter, _) in functions.items():
        used[name] = {
            inner.attr
            for inner in ast.walk(node)
            if isinstance(inner, ast.Attribute) and ast.unparse(inner.value) == parameter
        }
        calls[name] = {
            ast.unparse(inner.func)
            for inner in ast.walk(node)
            if isinstance(inner, ast.Call)
            and parameter
            in [ast.unparse(a) for a in (*inner.args, *(k.value for k in inner.keywords))]
        }
    for _ in functions:  # as deep as a chain of calls can be
        for name, called in calls.items():
            for other in called & set(functions):
                used[name] |= used[other]
    return used


@pytest.mark.parametrize("context", list(CONTEXTS))
def test_who_takes_a_context_uses_half_of_it(context: str) -> None:
    fields, used = fields_of(context), fields_used(context)
    assert len(fields) > 1
    assert len(used) > 5
    for name, own in used.items():
        assert 2 * len(own & fields) >= len(fields), f"{name} uses {sorted(own)} of {context}"


@pytest.mark.parametrize(
    ("library", "only"),
    [
        ("accelerate", ["cli/launcher.py", "runtime/accelerator.py", "runtime/tracking.py"]),
        ("timm", ["models.py"]),
        ("altair", ["reporting/charts.py", "reporting/page.py"]),
    ],
)
def test_a_library_stays_behind_its_edge(library: str, only: list[str]) -> None:
    pattern = re.compile(rf"^\s*(import|from) {library}\b", re.MULTILINE)
    importers = [str(p.relative_to(PACKAGE)) for p in MODULES if pattern.search(p.read_text())]
    assert importers == only


def test_the_method_touches_no_rank_file_or_clock() -> None:
    banned = {"torch.distributed", "pathlib", "os", "time", "accelerate", "random", "logging"}
    files = sorted((PACKAGE / "method").glob("*.py"))
    assert len(files) > 5
    for path in files:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert not banned & {alias.name for alias in node.names}, path.name
            if isinstance(node, ast.ImportFrom):
                assert node.module not in banned, path.name


def test_no_file_is_over_400_lines_and_no_function_over_60() -> None:
    num_functions = 0
    for path in MODULES:
        text = path.read_text()
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                num_functions += 1
                assert node.end_lineno is not None
                assert node.end_lineno - node.lineno < 60, f"{path}: {node.name}"
    assert num_functions > 100


def test_nothing_executes_what_it_reads() -> None:
    banned = re.compile(
        r"\bpickle\b|torch\.load\(|(gather|broadcast|scatter|send|recv)_object|object_list\("
        r"|trust_remote_code=True|yaml\.load\("
        r"|(?<![\w.])(eval|exec)\("
    )
    for path in MODULES:
        for line in path.read_text().splitlines():
            assert not banned.search(line), f"{path}: {line}"


def test_the_readme_map_names_every_module() -> None:
    readme = (ROOT / "README.md").read_text()
    code_map = readme[readme.index("## The code") :]
    named = set(re.findall(r"[\w/]+\.py", code_map))
    modules = {str(path.relative_to(PACKAGE)) for path in MODULES if path.stem != "__init__"}
    assert named == modules


def test_the_config_and_the_command_line_load_without_torch() -> None:
    script = (
        "import sys, cotrain_dist.cli.main, cotrain_dist.config;"
        "print(sorted({'torch', 'timm', 'datasets', 'accelerate'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_every_config_file_parses_and_states_its_command(path: Path) -> None:
    from cotrain_dist.config.parsing import parse_config

    parse_config(["--config", str(path)], "cotrain-dist train")
    head = path.read_text().split("data:")[0]
    assert f"--config configs/{path.name}" in head


def test_the_configuration_reference_is_made_from_the_code() -> None:
    spec = importlib.util.spec_from_file_location(
        "make_configuration", ROOT / "docs" / "make_configuration.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert page == module.render(), "run make docs"
    assert "| `selection.threshold` | float or null |" in page

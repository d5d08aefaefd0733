"""`cotrain-dist export RUN --output FILE.onnx`: a run's model for programs without torch."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from cotrain_dist.cli.arguments import Arguments, before_torch
from cotrain_dist.config.of_run import config_of_run
from cotrain_dist.config.places import check_output_file
from cotrain_dist.errors import UserError

USAGE = "export RUN --output FILE.onnx [--model best|a|b]"
PROG = "cotrain-dist export"
LIBRARIES = ("onnx", "onnxscript", "onnxruntime")


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    own, settings = _parser().parse_with_settings(arguments)
    config = config_of_run(own.run, settings, PROG)
    check_output_file(own.output, (".onnx",), replaces=False)
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is None:
            rule, way_out = f"needs {library}, which is missing", "pip install 'cotrain_dist[onnx]'"
            raise UserError("--output", own.output, rule, way_out)

    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    from cotrain_dist.inference.onnx_file import onnx_of
    from cotrain_dist.inference.saved import saved_model
    from cotrain_dist.runtime.progress import build_console
    from cotrain_dist.store.atomic import write_bytes

    folder, about = saved_model(Path(config.output_dir), own.model)
    content, difference = onnx_of(folder, about)
    write_bytes(own.output, content)
    line = (
        f"{own.output}: {own.model} of {own.run}, {len(content):,} bytes; on random images no "
        f"probability is more than {difference:.1e} from torch's"
    )
    build_console().print(line)
    return 0


def _parser() -> Arguments:
    parser = Arguments(
        PROG,
        "Write a run's model as ONNX, for programs without torch. Input `images`: RGB in 0..1, "
        "float32 [N, 3, S, S]; output `logits` [N, classes]. Normalization is in the graph, names "
        "of classes and preprocessing are in the metadata. The file is checked against torch "
        "before it is put in its place.",
        "runs/1 --output model.onnx",
    )
    parser.add_argument("run", type=Path, help="directory that train wrote")
    parser.add_argument("--output", type=Path, required=True, help="file ending in .onnx")
    parser.add_argument("--model", default="best", help="best (default), or another of RUN/models")
    return parser

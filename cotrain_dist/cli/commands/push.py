"""`cotrain-dist push RUN OWNER/NAME`: a finished run's model on the Hugging Face hub."""

import re
from collections.abc import Sequence
from pathlib import Path

from cotrain_dist.cli.arguments import Arguments, before_torch
from cotrain_dist.config.of_run import config_of_run
from cotrain_dist.errors import UserError

USAGE = "push RUN OWNER/NAME [--model best|a|b] [--public] [--license ID] [--dry_run]"
PROG = "cotrain-dist push"


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code."""
    own, settings = _parser().parse_with_settings(arguments)
    if own.license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", own.license):
        rule = "is no identifier of a license"
        raise UserError("--license", own.license, rule, "give apache-2.0, mit or cc-by-4.0, say")
    config = config_of_run(own.run, settings, PROG)

    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    from cotrain_dist.inference.hub import check_repo, prepare, push
    from cotrain_dist.runtime.progress import build_console

    check_repo(own.repo)
    upload = prepare(config, own.model, own.repo, own.license)
    console = build_console()
    kind = "public" if own.public else "private"
    console.print(f"{own.repo} ({kind}), {own.model} of {own.run}:")
    for name, num_bytes in upload.sizes().items():
        console.print(f"  {name}: {num_bytes:,} bytes")
    if own.dry_run:
        console.print("nothing was sent (--dry_run)")
        return 0
    console.print(push(upload, is_public=own.public))
    load = f'timm.create_model("hf-hub:{own.repo}", pretrained=True)'
    console.print(f"load it with {load}")
    return 0


def _parser() -> Arguments:
    parser = Arguments(
        PROG,
        "Upload a finished run's model to the Hugging Face hub: config.json, model.safetensors and "
        "a model card, which timm loads as hf-hub:OWNER/NAME. The repository is made where there "
        "is none, private unless --public is given. A further push replaces the three files.",
        "runs/1 my-name/my-model --license apache-2.0 --dry_run",
    )
    parser.add_argument("run", type=Path, help="directory that train wrote")
    parser.add_argument("repo", metavar="OWNER/NAME", help="repository of the hub")
    parser.add_argument("--model", default="best", help="best (default), or another of RUN/models")
    parser.add_argument("--public", action="store_true", help="for all to see")
    parser.add_argument("--license", help="the license that the card names, apache-2.0, say")
    parser.add_argument("--dry_run", action="store_true", help="show files and sizes; send nothing")
    return parser

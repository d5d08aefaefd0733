"""`cotrain-dist predict RUN IMAGES...`: labels and confidences of A, B and both together."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from cotrain_dist.cli.arguments import Arguments, before_torch
from cotrain_dist.config.of_run import config_of_run
from cotrain_dist.config.places import check_output_early
from cotrain_dist.printable import printable

USAGE = "predict RUN IMAGES... [--output FILE.csv|.jsonl|.parquet]"
PROG = "cotrain-dist predict"
ENDINGS = (".csv", ".jsonl", ".parquet")


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. Collective under a launcher."""
    parser = Arguments(
        PROG,
        "Label images with a run's models. --KEY VALUE changes the device.",
        "runs/1 images 'more/*.jpg' --output labels.csv",
    )
    parser.add_argument("run", type=Path, help="directory that train wrote")
    parser.add_argument("images", nargs="+", help="files, folders, quoted globs")
    parser.add_argument(
        "--output",
        type=Path,
        help="file ending in .csv, .jsonl or .parquet; CSV to the console without it",
    )
    own, settings = parser.parse_with_settings(arguments)
    config = config_of_run(own.run, settings, PROG)
    check_output_early(own.output, ENDINGS, replaces=False)

    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    from cotrain_dist.inference.evaluate import load_classifiers, open_run
    from cotrain_dist.inference.predict import agree_on_images, predict_files
    from cotrain_dist.runtime.accelerator import start_runtime
    from cotrain_dist.runtime.collectives import together
    from cotrain_dist.store.predictions import open_writer

    num_broken = num_labeled = 0
    with start_runtime(config) as rt, ExitStack() as files_to_close:
        ctx, table = together(lambda: open_run(config, rt), rt.control)
        classifiers = together(lambda: load_classifiers(table.class_names, ctx), rt.control)
        files = agree_on_images(own.images, rt)
        writer = together(
            lambda: open_writer(own.output, ENDINGS) if rt.is_lead else None, rt.control
        )
        if writer is not None:
            # After an error too: Parquet without its footer is unreadable, blocks that are whole
            # are not.
            files_to_close.callback(writer.close)
        for predictions, broken in predict_files(classifiers, files, table, ctx):
            num_labeled += len(predictions)
            num_broken += len(broken)
            if writer is not None:
                writer.write(predictions)
                for path in broken:
                    # On stderr, since stdout may be the CSV.
                    line = f"skipped: {path} cannot be read as an image"
                    print(printable(line), file=sys.stderr)
        if rt.is_lead:
            print(f"labeled {num_labeled} images, skipped {num_broken}", file=sys.stderr)
    return 0 if num_labeled else 1

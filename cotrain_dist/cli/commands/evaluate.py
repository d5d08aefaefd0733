"""`cotrain-dist evaluate RUN`: figures of A, B and both together on labeled images."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cotrain_dist.cli.arguments import Arguments, before_torch
from cotrain_dist.config.of_run import config_of_run
from cotrain_dist.config.places import check_output_early, check_output_file
from cotrain_dist.errors import UserError

USAGE = "evaluate RUN [--on T|V|U|FOLDER] [--output FILE.json]"
PROG = "cotrain-dist evaluate"


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. Collective under a launcher."""
    parser = Arguments(
        PROG,
        "Measure a run's models. --KEY VALUE changes device or data.root.",
        "runs/1 --on T --output figures.json",
    )
    parser.add_argument("run", type=Path, help="directory that train wrote")
    parser.add_argument("--on", default="T", help="T (default), V, U, or a folder of class folders")
    parser.add_argument("--output", type=Path, help="also write the figures to this JSON file")
    parser.add_argument("--most_confused", type=int, default=5, help="pairs of classes to show")
    own, settings = parser.parse_with_settings(arguments)
    if own.most_confused < 0:
        raise UserError(
            "--most_confused", own.most_confused, "must not be negative", "0 shows no pairs"
        )
    config = config_of_run(own.run, settings, PROG)
    # Before the passes, whose figures would otherwise be lost.
    check_output_early(own.output, (".json",), replaces=True)

    # Imported late: torch takes seconds that a mistyped key should not cost.
    before_torch()
    from cotrain_dist.inference.evaluate import (
        evaluate,
        labeled_images,
        load_classifiers,
        notes_of_best,
        open_run,
    )
    from cotrain_dist.method.metrics import most_confused
    from cotrain_dist.reporting.tables import (
        accuracy_table,
        best_line,
        class_table,
        confusion_table,
    )
    from cotrain_dist.runtime.accelerator import start_runtime
    from cotrain_dist.runtime.collectives import together
    from cotrain_dist.store.atomic import write_json

    with start_runtime(config) as rt:
        if own.output:
            check = partial(check_output_file, own.output, (".json",), replaces=True)
            together(lambda: check() if rt.is_lead else None, rt.control)
        ctx, table = together(lambda: open_run(config, rt), rt.control)
        names = table.class_names
        classifiers = together(lambda: load_classifiers(names, ctx), rt.control)
        images, sample_ids = together(lambda: labeled_images(table, own.on, ctx), rt.control)
        figures = evaluate(classifiers, sample_ids, images, ctx)
        confused = most_confused(figures.labels["ensemble"], figures.targets, own.most_confused)
        ctx.reporter.print(accuracy_table(figures.accuracy, f"{own.run} on {own.on}"))
        notes = notes_of_best(own.run)
        if notes is not None:
            ctx.reporter.say(best_line(notes))
        ctx.reporter.print(class_table(figures.recall, figures.targets, names))
        ctx.reporter.print(confusion_table(confused, names))
        if own.output and rt.is_lead:
            write_json(own.output, figures.to_json(names, confused))
    return 0

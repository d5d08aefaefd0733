"""`cotrain-dist evaluate RUN`: figures of A, B and both together on labeled images."""

import json
from collections.abc import Sequence
from pathlib import Path

from cotrain_dist.cli.arguments import Arguments
from cotrain_dist.cli.run_config import config_of_run
from cotrain_dist.errors import UserError

PROG = "cotrain-dist evaluate"


def run(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit code. Collective under a launcher."""
    parser = Arguments(PROG, "Measure a run's models. --KEY VALUE changes device or data.root.")
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

    from cotrain_dist.method.metrics import most_confused
    from cotrain_dist.reporting.predictions import check_folder
    from cotrain_dist.reporting.tables import accuracy_table, class_table, confusion_table
    from cotrain_dist.runtime.accelerator import start_runtime
    from cotrain_dist.runtime.collectives import together
    from cotrain_dist.training.inference import evaluate, labeled_images, load_classifiers, open_run

    if own.output:
        check_folder(own.output)
    rt = start_runtime(config)
    exp = together(lambda: open_run(config, rt), rt.control)
    classifiers = together(lambda: load_classifiers(exp), rt.control)
    exp, sample_ids = together(lambda: labeled_images(exp, own.on), rt.control)
    figures = evaluate(classifiers, sample_ids, exp)
    names = list(exp.table.class_names)
    confused = most_confused(figures.labels["ensemble"], figures.targets, own.most_confused)
    exp.reporter.print(accuracy_table(figures.accuracy, f"{own.run} on {own.on}"))
    exp.reporter.print(class_table(figures.recall, figures.targets, names))
    exp.reporter.print(confusion_table(confused, names))
    if own.output and rt.is_lead:
        own.output.write_text(json.dumps(figures.as_dict(names, confused), indent=1) + "\n")
    rt.close()
    return 0

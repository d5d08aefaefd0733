"""The model card of models/best says what the run has measured, in the form that hubs read."""

import json
from dataclasses import replace

from conftest import FinishedRun
from huggingface_hub import ModelCard

from cotrain_dist.api import load_run
from cotrain_dist.data.splits import load_split_table
from cotrain_dist.method.splits import Split
from cotrain_dist.training.card import CARD, model_card


def test_the_card_of_a_run(finished_run: FinishedRun) -> None:
    best = finished_run.path / "models" / "best"
    card = ModelCard.load(best / CARD)
    assert card.data.to_dict()["library_name"] == "timm"
    notes = json.loads((best / "config.json").read_text())["cotrain_dist"]
    run, table = load_run(finished_run.path), load_split_table(finished_run.path)
    record = next(r for r in run.cotrain_history if r.epoch == notes["epoch"])
    assert record.test is not None
    assert record.validation is not None
    num_test = len(table.sample_ids(Split.T))
    top1 = f"{100 * record.test[notes['role']].top1:.1f}"
    assert f"| T, {num_test} images: this model | {top1} (" in card.text
    assert f"| V: A and B together | {100 * record.validation['ensemble'].top1:.1f} (" in card.text
    assert f"this is {notes['role'].upper()} after epoch {notes['epoch']} of Step 2" in card.text
    assert f"Images without labels: {len(table.sample_ids(Split.U))}." in card.text
    assert "Chosen on: V." in card.text
    assert "flatters" not in card.text


def test_what_was_not_measured_or_is_flattered_is_told(finished_run: FinishedRun) -> None:
    run, table = load_run(finished_run.path), load_split_table(finished_run.path)
    notes = {"role": "b", "epoch": 2, "chosen_on": "T"}
    with_t = [replace(record, validation=None) for record in run.cotrain_history]
    assert "It was chosen on T: that flatters it." in model_card(notes, with_t, table, run.config)
    nothing = [replace(record, test=None) for record in with_t]
    assert "There was no T and no V" in model_card(notes, nothing, table, run.config)
    assert "Not measured." in model_card(notes, [], table, run.config)


def test_names_of_classes_do_nothing_to_a_terminal(finished_run: FinishedRun) -> None:
    run, table = load_run(finished_run.path), load_split_table(finished_run.path)
    names = ("\x1b[31mred", *table.class_names[1:])
    listing = replace(table.listing, class_names=names)
    card = model_card({"role": "a", "epoch": 0}, [], replace(table, listing=listing), run.config)
    assert "\x1b" not in card
    assert "x1b[31mred" in card

"""Images of no use are found before training, listed with their reasons, and all others used."""

import json
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest
from bad_files import BAD, GOOD, copy_without, make_folder, noise, png_of_size
from PIL import Image
from ranks import complaint, history_of, run_ranks, tiny_config, train_run

from cotrain_dist.cli import main as cli
from cotrain_dist.config import Config
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.data.bad_images import refuse_bad
from cotrain_dist.data.sources import list_images
from cotrain_dist.data.sources.folders import LEAVES
from cotrain_dist.data.splits import draw_split_table, load_split_table
from cotrain_dist.errors import UserError
from cotrain_dist.method.splits import Split


def listed(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "bad_images.jsonl").read_text().splitlines()]


def config_of(root: Path, run: Path, **changes: Any) -> Config:
    short = {"pretrain": {"num_epochs": 1}, "cotrain": {"num_epochs": 1}}
    data = {"on_bad_image": "skip", "image_size": 16} | changes.pop("data", {})
    return tiny_config(root, run, data=data, **(short | changes))


def splits_by_path(table: Any) -> dict[str, str]:
    pairs = zip(table.listing.paths, table.splits.tolist(), strict=True)
    return {path: Split(split).name for path, split in pairs}


def test_every_kind_is_listed_and_all_good_images_are_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reasons = make_folder(tmp_path / "images")
    assert len(BAD) >= 40
    assert len(GOOD) >= 15
    config = config_of(tmp_path / "images", tmp_path / "run")
    (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
    caplog.set_level(logging.INFO, "cotrain_dist")
    assert cli.main(["train", "--config", str(tmp_path / "settings.yaml")]) == 0
    found = {one["path"]: one["reason"] for one in listed(tmp_path / "run")}
    assert sorted(found) == sorted(reasons)
    for path, reason in reasons.items():
        assert reason in found[path], path
    assert all(one["class"] == one["path"][0] for one in listed(tmp_path / "run"))
    by_class = Counter(path[0] for path in reasons)
    counts = ", ".join(f"{name} {number}" for name, number in sorted(by_class.items()))
    line = f"left out: {len(reasons)} image(s) that cannot be used (bad_images.jsonl says why)"
    assert f"{line}; with a label: {counts}" in caplog.messages
    # As in a folder of the good ones alone: each of them in the same split.
    copy_without(tmp_path / "images", set(reasons), tmp_path / "clean")
    clean = config_of(tmp_path / "clean", tmp_path / "other")
    expected = splits_by_path(draw_split_table(list_images(clean.data), clean.data, clean.seed))
    assert "OUT" not in expected.values()
    got = splits_by_path(load_split_table(tmp_path / "run"))
    assert {path: split for path, split in got.items() if path not in reasons} == expected
    assert {got[path] for path in reasons if path in got} == {"OUT"}


def test_by_default_they_end_the_start_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = make_folder(tmp_path / "images")
    config = config_of(tmp_path / "images", tmp_path / "run", data={"on_bad_image": "error"})
    (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
    assert cli.main(["train", "--config", str(tmp_path / "settings.yaml")]) == 2
    (line,) = [li for li in capsys.readouterr().err.splitlines() if li.startswith("error: ")]
    num = 60 + len(GOOD) + len(reasons)
    assert (
        f"error: data.on_bad_image: error: {len(reasons)} of {num} images cannot be used: " in line
    )
    assert f"; and {len(reasons) - 5} more; repair or remove them, or give" in line
    assert not (tmp_path / "run").exists()


def _train_without_a_scan(config: Config) -> None:
    from cotrain_dist.training import setup

    def scan(*arguments: object) -> None:
        raise AssertionError("a resume has no need to")

    scan_images, setup.scan_images = setup.scan_images, scan
    try:
        train_run(config, resume=True)
    finally:
        setup.scan_images = scan_images


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [2, 4])
def test_all_worlds_find_the_same_and_a_resume_keeps_it(num_ranks: int, tmp_path: Path) -> None:
    """The bad files may be gone by then."""
    reasons = make_folder(tmp_path / "images", num_per_class=40)
    train = {"train": {"batch_size": 32}}
    runs = {num: tmp_path / f"run-{num}" for num in (1, num_ranks)}
    for num, run in runs.items():
        config = config_of(tmp_path / "images", run, data={"labeled_per_class": 16}, **train)
        run_ranks(train_run, num, tmp_path, config)
    alone, together = (load_split_table(run) for run in runs.values())
    assert alone.digest == together.digest
    assert listed(runs[1]) == listed(runs[num_ranks])
    for path in reasons:
        bad = tmp_path / "images" / path
        bad.rmdir() if bad.is_dir() and not bad.is_symlink() else bad.unlink()
    history = history_of(runs[num_ranks])
    run_ranks(_train_without_a_scan, num_ranks, tmp_path, config)
    assert history_of(runs[num_ranks]) == history
    assert len(listed(runs[num_ranks])) == len(reasons)


def _count_decoded(config: Config) -> int:
    """A body: a training; how many images were decoded."""
    from cotrain_dist.data.sources import files

    decoded = []
    decode = files.decode
    files.decode = lambda *arguments: decoded.append(1) or decode(*arguments)
    try:
        train_run(config)
    finally:
        files.decode = decode
    return len(decoded)


@pytest.mark.slow
@pytest.mark.parametrize("augment", ["off", "crop_flip"])
def test_what_the_scan_has_decoded_is_decoded_nowhere_else(augment: str, tmp_path: Path) -> None:
    """Nor in a second run: its scan looks into the cache alone, and at what is bad."""
    reasons = make_folder(tmp_path / "images")
    data = {"augment": augment, "cache": str(tmp_path / "cache")}
    first, second = (config_of(tmp_path / "images", tmp_path / n, data=data) for n in "12")
    table = draw_split_table(list_images(first.data), first.data, 0)
    assert run_ranks(_count_decoded, 1, tmp_path, first) == [len(table.splits) - 1]  # `huge.jpg`
    num_bad_rows = len(reasons) - len(table.listing.bad)
    # Lines and numbers that are none are decoded before they are refused.
    assert run_ranks(_count_decoded, 1, tmp_path, second) == [num_bad_rows - 1]


# Other sources


def write_table(folder: Path, num: int = 60) -> Path:
    (folder / "files").mkdir(parents=True)
    lines = ["path,label"]
    for index in range(num):
        noise(index).save(folder / "files" / f"{index:02d}.png")
        lines.append(f"files/{index:02d}.png,{'ab'[index % 2]}")
    (folder / "files" / "03.png").write_bytes(b"no image")
    (folder / "files" / "04.png").unlink()
    (folder / "files" / "05.png").unlink()
    (folder / "files" / "05.png").mkdir()
    (folder / "table.csv").write_text("\n".join(lines) + "\n")
    return folder / "table.csv"


@pytest.mark.slow
def test_of_a_table(tmp_path: Path) -> None:
    data = {"source": "csv", "table": str(write_table(tmp_path)), "root": None}
    data |= {"labeled_fraction": 0.2}
    config = config_of(tmp_path, tmp_path / "run", data=data)
    run_ranks(train_run, 1, tmp_path, config)
    assert [(one["path"], one["class"], one["reason"]) for one in listed(tmp_path / "run")] == [
        ("files/03.png", "b", "of no image format that Pillow reads"),
        ("files/04.png", "a", "No such file or directory"),
        ("files/05.png", "b", "is no file"),
    ]
    strict = config_of(tmp_path, tmp_path / "other", data=data | {"on_bad_image": "error"})
    (found,) = run_ranks(complaint, 1, tmp_path, strict)
    assert "data.table: " in found[1]
    assert "2 of 60 files are missing" in found[1]


@pytest.mark.slow
def test_of_rows(tmp_path: Path) -> None:
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    cells: list[Any] = [noise(index) for index in range(60)]
    cells[7], cells[9] = None, {"bytes": b"no image", "path": None}
    columns = {"image": cells, "label": list("ab") * 30}
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "set")
    data = {"source": "hub", "name": str(tmp_path / "set"), "root": None}
    run_ranks(train_run, 1, tmp_path, config_of(tmp_path, tmp_path / "run", data=data))
    assert [(one["path"], one["class"], one["reason"]) for one in listed(tmp_path / "run")] == [
        ("00000007", "b", "the row holds no image"),
        ("00000009", "b", "of no image format that Pillow reads"),
    ]


@pytest.mark.slow
def test_of_a_set_of_torchvision(tmp_path: Path) -> None:
    for index in range(60):
        folder = tmp_path / "eurosat" / "2750" / ("River", "Forest")[index % 2]
        folder.mkdir(parents=True, exist_ok=True)
        noise(index).save(folder / f"{index:02d}.png")
    (tmp_path / "eurosat" / "2750" / "River" / "04.png").write_bytes(b"")
    data = {"source": "torchvision", "name": "EuroSAT"}
    run_ranks(train_run, 1, tmp_path, config_of(tmp_path, tmp_path / "run", data=data))
    (one,) = listed(tmp_path / "run")
    assert one["class"] == "River"
    assert "cannot identify" not in one["reason"]


# What goes with it


def damage_class_of_test(root: Path) -> dict[str, Any]:
    for kind in ("test", "images"):
        for name in "ab":
            (root / kind / name).mkdir(parents=True)
            for index in range(20):
                noise(100 * ord(name) + index + (kind == "test") * 50).save(
                    root / kind / name / f"{index}.png"
                )
    for path in (root / "test" / "b").iterdir():
        path.write_bytes(path.name.encode())
    return {"test": str(root / "test"), "test_per_class": None}


def test_a_class_of_t_of_which_nothing_is_left(tmp_path: Path) -> None:
    data = damage_class_of_test(tmp_path)
    config = config_of(tmp_path / "images", tmp_path / "run", data=data)
    (found,) = run_ranks(complaint, 1, tmp_path, config)
    assert found == (
        "UserError",
        "data.on_bad_image: b in T: none of these images can be used; repair them or add others.",
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_splits_that_are_taken_over_lose_what_is_bad_since(tmp_path: Path) -> None:
    make_folder(tmp_path / "images")
    first = config_of(tmp_path / "images", tmp_path / "one")
    run_ranks(train_run, 1, tmp_path, first)
    before = load_split_table(tmp_path / "one")
    row = int(before.sample_ids(Split.U)[0])
    image = tmp_path / "images" / before.listing.paths[row]
    image.write_bytes(b"x" * image.stat().st_size)
    data = {"splits_from": str(tmp_path / "one"), "cache": "off"}
    second = config_of(tmp_path / "images", tmp_path / "two", data=data)
    run_ranks(train_run, 1, tmp_path, second)
    after = load_split_table(tmp_path / "two")
    assert after.listing.bad_ids == sorted([*before.listing.bad_ids, row])
    moved = (after.splits != before.splits).nonzero().flatten().tolist()
    assert moved == [row]
    # What the splits leave out already is no error.
    data["on_bad_image"] = "error"
    third = config_of(tmp_path / "images", tmp_path / "three", data=data)
    (found,) = run_ranks(complaint, 1, tmp_path, third)
    assert "1 of " in found[1]
    assert before.listing.paths[row] in found[1]


@pytest.mark.slow
def test_equal_bad_files_with_two_labels_are_no_contradiction(tmp_path: Path) -> None:
    """Pages of one error in place of images are a scraper's usual present."""
    for name in "ab":
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(20):
            noise(100 * ord(name) + index).save(tmp_path / "images" / name / f"{index}.png")
        for index in range(300):
            (tmp_path / "images" / name / f"x{index}.png").write_bytes(b"<html>404</html>")
    config = config_of(tmp_path / "images", tmp_path / "run")
    run_ranks(train_run, 1, tmp_path, config)
    assert len(listed(tmp_path / "run")) == 600
    splits = load_split_table(tmp_path / "run").splits
    assert int((splits == Split.OUT).sum()) == 600


NAMES: list[tuple[str, Callable[[Path], object]]] = [
    ("two\nlines \x1b[2J.jpg", lambda path: path.write_bytes(b"")),
    (b"latin \xe9.png".decode("utf-8", "surrogateescape"), lambda path: noise(1).save(path)),
]


@pytest.mark.slow
def test_names_cannot_reach_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_folder(tmp_path / "images", classes="ab")
    for path in [*(tmp_path / "images").rglob("*")]:
        if not path.name[:2].isdigit() and path.parent.name in "ab":
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for name, make in NAMES:
        make(tmp_path / "images" / "a" / name)
    for mode, code in (("error", 2), ("skip", 0)):
        config = config_of(tmp_path / "images", tmp_path / "run", data={"on_bad_image": mode})
        (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
        assert cli.main(["train", "--config", str(tmp_path / "settings.yaml")]) == code
        printed = capsys.readouterr()
        assert "\x1b[2J" not in printed.err + printed.out
        if mode == "error":
            assert r"a/two\nlines \x1b[2J.jpg (the file is empty)" in printed.err
            assert r"a/latin \udce9.png (has a name that is not UTF-8)" in printed.err
    assert sorted(one["path"] for one in listed(tmp_path / "run")) == sorted(
        f"a/{name}" for name, _ in NAMES
    )


def test_a_class_folder_that_is_a_link(tmp_path: Path) -> None:
    make_folder(tmp_path / "images")
    (tmp_path / "linked").mkdir()
    for name in "ab":
        (tmp_path / "linked" / name).symlink_to(tmp_path / "images" / name)
    config = config_of(tmp_path / "linked", tmp_path / "run")
    rule = "holds 2 class folder.* with 0 image.*; a is a link that leaves the folder"
    with pytest.raises(UserError, match=rule):
        list_images(config.data)
    followed = list_images(replace(config.data, follow_links=True))
    there = replace(config.data, root=str(tmp_path / "images"), follow_links=True)
    wanted = [path for path in list_images(there).paths if path[0] in "ab"]
    assert list(followed.paths) == wanted
    assert LEAVES not in {one.reason for one in followed.bad}


@pytest.mark.parametrize("key", ["unlabeled", "test"])
def test_links_to_images_elsewhere_are_taken_where_that_is_asked(key: str, tmp_path: Path) -> None:
    make_folder(tmp_path / "images")
    image = next((tmp_path / "images" / "a").glob("*.png"))
    (tmp_path / "more" / "a").mkdir(parents=True)
    (tmp_path / "more" / "b").mkdir()
    (tmp_path / "more" / "a" / "link.png").symlink_to(image)
    (tmp_path / "more" / "b" / "own.png").write_bytes(image.read_bytes())
    data = config_of(tmp_path / "images", tmp_path / "run", data={key: str(tmp_path / "more")}).data
    refused = list_images(data)
    with pytest.raises(UserError, match=r"leaves the folder.*--data.follow_links true takes the"):
        refuse_bad(refused.bad, len(refused.paths))
    taken = list_images(replace(data, follow_links=True))
    assert "a/link.png" in set(taken.paths) - set(refused.paths)
    assert LEAVES not in {one.reason for one in taken.bad}


def test_a_claim_of_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    """A control for `bomb.png`: Pillow would begin to."""
    (tmp_path / "0.png").write_bytes(png_of_size(20_000, 20_000))
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "0.png").load()

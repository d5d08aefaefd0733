"""`export`: an ONNX file answers as the model does, and lies there only if it does."""

import json
import sys
from pathlib import Path

import onnx.helper
import onnx.parser
import onnxruntime
import pytest
import torch
from conftest import FinishedRun

from cotrain_dist.api import load_run
from cotrain_dist.cli import main as cli
from cotrain_dist.inference import onnx_file


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line that an export ends with."""
    capsys.readouterr()
    assert cli.main(["export", *map(str, arguments)]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1, errors
    return errors[0]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["a", "b"])
def test_the_file_says_what_the_model_says(
    model: str, finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.onnx"
    command = ["export", str(finished_run.path), "--output", str(file), "--model", model]
    assert cli.main(command) == 0
    printed = capsys.readouterr().out
    assert f"{file}: {model} of {finished_run.path}, {file.stat().st_size:,} bytes" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    saved = load_run(finished_run.path).load_model(model)  # type: ignore[arg-type]
    settings = json.loads((finished_run.path / "models" / model / "config.json").read_text())
    given = settings["pretrained_cfg"]
    size = given["input_size"][-1]
    mean, std = (torch.tensor(given[key]).reshape(3, 1, 1) for key in ("mean", "std"))
    images = torch.rand(5, 3, size, size, generator=torch.Generator().manual_seed(3))
    (found,) = session.run(["logits"], {"images": images.numpy()})
    with torch.no_grad():
        expected = saved((images - mean) / std)
    torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)

    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["label_names"]) == ["0", "1", "2", "3"]
    assert json.loads(about["input_size"]) == given["input_size"]
    assert json.loads(about["crop_pct"]) == given["crop_pct"]
    assert about["interpolation"] == "bicubic"
    assert json.loads(about["cotrain_dist"]) == settings["cotrain_dist"]


def test_a_file_that_answers_otherwise_is_not_written(
    finished_run: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Another graph in its place: it is sure of the first class, whatever it is shown.
    graph = onnx.parser.parse_graph(
        "wrong (float[N,3,H,W] images) => (float[N,4] logits)"
        " <float[4] row = {9, 0, 0, 0}, int64[1] one = {1}>"
        " { s = Shape <start = 0, end = 1> (images)  zero = ConstantOfShape (s)"
        "   column = Unsqueeze (zero, one)  logits = Add (column, row) }"
    )
    wrong = onnx.helper.make_model(
        graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)]
    )
    monkeypatch.setattr(onnx_file, "_traced", lambda model, size: wrong)
    file = tmp_path / "model.onnx"
    error = refused(capsys, finished_run.path, "--output", file)
    assert "a probability differs by 0." in error
    assert "nothing was written" in error
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_the_exporter_refuses(
    finished_run: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(model: object, size: int) -> None:
        raise torch.onnx.OnnxExporterError("no such operator\nin any opset")

    monkeypatch.setattr(onnx_file, "_traced", refuse)
    error = refused(capsys, finished_run.path, "--output", tmp_path / "model.onnx")
    assert "cannot be written as ONNX (OnnxExporterError: no such operator in any opset)" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("library", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_library_names_the_extra(
    library: str,
    finished_run: FinishedRun,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    error = refused(capsys, finished_run.path, "--output", tmp_path / "model.onnx")
    assert f"needs {library}, which is missing; pip install 'cotrain_dist[onnx]'" in error


def test_places_and_names_that_cannot_be_meant(
    finished_run: FinishedRun, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, file = finished_run.path, tmp_path / "model.onnx"
    assert "must end in .onnx" in refused(capsys, run, "--output", tmp_path / "model.pt")
    assert "has not saved it" in refused(capsys, run, "--output", file, "--model", "c")
    file.write_text("mine")
    assert "exists already" in refused(capsys, run, "--output", file)
    assert file.read_text() == "mine"

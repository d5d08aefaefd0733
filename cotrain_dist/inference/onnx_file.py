"""A saved model as one ONNX file that needs no torch, checked against the model it comes from."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from onnx import ModelProto, helper
from torch import Tensor, nn

from cotrain_dist.errors import UserError
from cotrain_dist.keys import keyed_generator
from cotrain_dist.models import load_saved

INPUT, OUTPUT = "images", "logits"

LARGEST_DIFFERENCE = 1e-3
"""Of any probability: what other kernels and orders of sums may change."""

CHECKED_BATCHES = (1, 3, 8)
"""Numbers of images; other ones than the graph was traced with."""


class _FromPixels(nn.Module):
    """[N, 3, S, S] float32 in 0..1 -> logits [N, C]: normalization is part of the model."""

    def __init__(self, model: nn.Module, settings: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        mean, std = (settings["pretrained_cfg"][name] for name in ("mean", "std"))
        self.mean = nn.Buffer(torch.tensor(mean).reshape(1, 3, 1, 1))
        self.std = nn.Buffer(torch.tensor(std).reshape(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model((images - self.mean) / self.std)
        return logits


def onnx_of(folder: Path, settings: dict[str, Any]) -> tuple[bytes, float]:
    """The content of an ONNX file, and by how much its probabilities differ from the model's.

    folder: of a saved model. settings: its config.json. Raises UserError where the model cannot be
    written so, or would answer otherwise than it does in torch.
    """
    model = _FromPixels(load_saved(folder), settings).eval()
    size = int(settings["pretrained_cfg"]["input_size"][-1])
    try:
        proto = _traced(model, size)
        helper.set_model_props(proto, _metadata(settings))
        content: bytes = proto.SerializeToString()
        difference = _difference(model, content, size)
    # Of several libraries, each with errors of its own; a file beyond 2 GiB is one of them.
    except Exception as error:
        why = " ".join(str(error).split())[:300]
        architecture = settings["architecture"]
        rule = f"{architecture} cannot be written as ONNX ({type(error).__name__}: {why})"
        raise UserError("--model", folder, rule, "use it with timm, or train another") from error
    if not difference <= LARGEST_DIFFERENCE:
        rule = f"a probability differs by {difference:.2g} from torch's; nothing was written"
        raise UserError("--model", folder, rule, "use it with timm, or another onnxruntime")
    return content, difference


def _traced(model: nn.Module, size: int) -> ModelProto:
    program = torch.onnx.export(
        model,
        (torch.rand(2, 3, size, size),),
        dynamo=True,
        input_names=[INPUT],
        output_names=[OUTPUT],
        dynamic_shapes=({0: torch.export.Dim("batch")},),
        external_data=False,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _metadata(settings: dict[str, Any]) -> dict[str, str]:
    """What a user of the file has to know: words, and JSON where it is more than one."""
    given = settings["pretrained_cfg"]
    return {
        "label_names": json.dumps(settings["label_names"]),
        "architecture": settings["architecture"],
        "input": "RGB, float32, 0 to 1, [N, 3, height, width]; normalized in the graph",
        **{key: json.dumps(given[key]) for key in ("input_size", "crop_pct", "mean", "std")},
        "interpolation": given["interpolation"],
        "crop_mode": given["crop_mode"],
        "cotrain_dist": json.dumps(settings["cotrain_dist"]),
    }


@torch.no_grad()
def _difference(model: nn.Module, content: bytes, size: int) -> float:
    """The largest difference of a probability on random images; nan where one is no number."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    differences = [0.0]
    for num in CHECKED_BATCHES:
        images = torch.rand(num, 3, size, size, generator=keyed_generator(num, "onnx"))
        (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
        found = torch.from_numpy(np.asarray(logits)).softmax(dim=1)
        differences.append((found - model(images).softmax(dim=1)).abs().max().item())
    return float(np.max(differences))

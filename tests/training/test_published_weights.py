"""Weights that timm publishes: from the cache, by one process on each node, or one clear error."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from ranks import run_ranks, tiny_config
from torch import nn

from cotrain_dist import models
from cotrain_dist.config import Config
from cotrain_dist.errors import UserError
from cotrain_dist.models import fetch_published, head_of
from cotrain_dist.store import features
from cotrain_dist.store.features import FeatureStore
from cotrain_dist.training.features import check_all


class _Hub:
    """Stands for the network: answers, or does not."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked, self.downloaded = error, [], []

    def head(self, url: str, timeout: float) -> None:
        self.asked.append((url, timeout))
        if self.error is not None:
            raise self.error

    def download(self, repository: str, name: str) -> None:
        self.downloaded.append((repository, name))


def fetch(hub: _Hub, name: str = "resnet18", cached: str | None = None) -> None:
    with (
        mock.patch.object(models, "get_session", return_value=hub),
        mock.patch.object(models, "hf_hub_download", hub.download),
        mock.patch.object(models, "try_to_load_from_cache", return_value=cached),
    ):
        fetch_published(name, "model_a.pretrained")


def test_what_is_cached_needs_no_network() -> None:
    hub = _Hub(OSError("no network"))
    fetch(hub, cached="some/file")
    assert (hub.asked, hub.downloaded) == ([], [])


def test_what_is_not_cached_is_downloaded_once_the_hub_answers() -> None:
    hub = _Hub()
    fetch(hub)
    ((url, timeout),) = hub.asked
    assert url.endswith("/timm/resnet18.a1_in1k/resolve/main/model.safetensors")
    assert timeout <= 5.0
    assert hub.downloaded == [("timm/resnet18.a1_in1k", "model.safetensors")]


def test_without_a_network_one_error_says_what_to_put_where() -> None:
    with pytest.raises(UserError) as caught:
        fetch(_Hub(OSError("name unknown")))
    text = str(caught.value)
    assert text.startswith("model_a.pretrained: true: the weights of resnet18 are not on this disk")
    assert "does not answer (name unknown)" in text
    assert "copy config.json and model.safetensors of timm/resnet18.a1_in1k from a machine" in text
    assert text.endswith("give --model_a.pretrained FOLDER.")


def test_a_model_without_published_weights() -> None:
    nothing = SimpleNamespace(has_weights=False)
    for published in (None, nothing):
        with (
            mock.patch.object(models.timm.models, "get_pretrained_cfg", lambda _, p=published: p),
            pytest.raises(UserError, match="timm publishes no weights of resnet18; give false"),
        ):
            fetch(_Hub())


def _count_fetches(config: Config) -> list[str]:
    """A body: what this process would download."""
    from cotrain_dist.training import setup

    fetched: list[str] = []
    with (
        mock.patch.object(setup, "fetch_published", lambda name, key: fetched.append(key)),
        setup.start_world(config) as rt,
    ):
        setup.fetch_models(config, rt)
    return fetched


def test_one_process_on_a_node_downloads_for_both_models(tmp_path: Path) -> None:
    model: dict[str, Any] = {"pretrained": True}
    config = tiny_config(tmp_path, tmp_path / "run", model_a=model, model_b=model)
    fetched = run_ranks(_count_fetches, 3, tmp_path, config)
    assert fetched == [["model_a.pretrained", "model_b.pretrained"], [], []]


def test_a_model_that_does_not_end_in_a_linear_layer() -> None:
    class Odd(nn.Module):
        def get_classifier(self) -> nn.Module:
            return nn.Identity()

    with pytest.raises(UserError, match=r"model_b.train: head: Odd does not end in one linear lay"):
        head_of(Odd(), "model_b.train")


def test_a_folder_that_the_nodes_do_not_share(tmp_path: Path) -> None:
    with mock.patch.object(features, "BLOCK_SIZE", 4):
        digests = [f"{i:064x}" for i in range(6)]
        store = FeatureStore(tmp_path, {"dtype": "float32"}, digests, 3)
        store.write(torch.arange(4), torch.zeros(4, 3))
        with pytest.raises(UserError, match="1 of 2 blocks that other ranks wrote are not here"):
            check_all(store)
        store.write(torch.tensor([4, 5]), torch.zeros(2, 3))
        check_all(store)

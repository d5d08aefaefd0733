"""Decoded images on disk change nothing but the time: in every world, cold, warm and damaged."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from ranks import build_students, run_ranks, tiny_config

from cotrain_dist.cli import main as cli
from cotrain_dist.config import Config
from cotrain_dist.config.text import config_to_yaml
from cotrain_dist.types import Position, Role


def digest(values: torch.Tensor) -> str:
    return hashlib.sha256(values.numpy().tobytes()).hexdigest()


def votes_and_weights(config: Config) -> dict[str, Any]:
    """A body: the votes on U of first weights, and digests of the weights of a first epoch."""
    from cotrain_dist.training.pool import vote_on_pool
    from cotrain_dist.training.steps import train_epoch

    students, images, ctx = build_students(config)
    # Each rank has the votes on a part of U, in another world on another one.
    found: dict[str, Any] = {
        f"votes on {part.start + place}": votes
        for part in vote_on_pool(students, images, ctx).parts
        for place, votes in enumerate(zip(part.a.tolist(), part.b.tolist(), strict=True))
    }
    for student in students:
        learned = images.table.labeled(student.role, "own")
        train_epoch(student, learned, "pretrain", Position(), images.pixels, ctx)
        weights = torch.cat([p.detach().flatten() for p in student.model.parameters()])
        found[student.role.value] = digest(weights)
    images.pixels.close()
    ctx.runtime.close()
    return found


def config_of(root: Path, cache: object, **data: Any) -> Config:
    """Random crops for A, strong views for B, of another size."""
    return tiny_config(
        root,
        root / "no run",
        data={"augment": "crop_flip", "cache": str(cache), **data},
        model_b={"name": "test_resnet", "augment": "strong", "image_size": 40},
    )


@pytest.mark.parametrize(
    "worlds", [(2,), *(pytest.param(w, marks=pytest.mark.slow) for w in [(1,), (3, 4)])]
)
def test_votes_and_steps_are_the_same_in_every_world_cold_and_warm(
    worlds: tuple[int, ...], digits_folder: Path, tmp_path: Path
) -> None:
    (plain,) = run_ranks(votes_and_weights, 1, tmp_path, config_of(digits_folder, "off"))
    assert len(plain) == 70 + 2
    for num_ranks in worlds:
        folder = tmp_path / f"cache-{num_ranks}"
        for way in ("cold", "warm"):
            config = config_of(digits_folder, folder, num_workers=num_ranks % 2)
            found = run_ranks(votes_and_weights, num_ranks, tmp_path, config)
            joined = {key: value for own in found for key, value in own.items()}
            if num_ranks > 2:  # a role's gradients are summed in another order
                joined |= {role: plain[role] for role in ("a", "b")}
            assert joined == plain, (num_ranks, way)
        # A center of each size, and the whole image of each size, are four views.
        files = sorted(folder.glob("*/pixels"))
        assert len(files) == 4
        assert all(file.stat().st_blocks for file in files)


def weights(run: Path) -> dict[str, bytes]:
    return {
        role.value: b"".join(
            value.numpy().tobytes()
            for _, value in sorted(
                safetensors.torch.load_file(run / f"models/{role.value}/model.safetensors").items()
            )
        )
        for role in Role
    }


@pytest.mark.slow
def test_a_run_on_a_damaged_refused_or_missing_cache_is_the_same_run(
    digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_config(digits_folder, tmp_path / "run", data={"augment": "crop_flip"})
    (tmp_path / "settings.yaml").write_text(config_to_yaml(config))
    (tmp_path / "file").write_text("")

    def train(name: str, *options: str) -> tuple[dict[str, bytes], str]:
        command = ["train", "--config", str(tmp_path / "settings.yaml"), *options]
        assert cli.main([*command, "--output_dir", str(tmp_path / name)]) == 0
        return weights(tmp_path / name), capsys.readouterr().out

    cache = tmp_path / "cache"
    plain, said = train("off", "--data.cache", "off")
    assert "decoded" not in said
    for way in ("cold", "warm"):
        found, said = train(way, "--data.cache", str(cache))
        assert found == plain
        assert "decoded" not in said
    for file in cache.glob("*/pixels"):
        with file.open("r+b") as held:
            held.seek(file.stat().st_size // 2)
            held.write(bytes(range(256)) * 8)
    found, said = train("damaged", "--data.cache", str(cache))
    assert found == plain
    assert said.count("is damaged, or was cut short: its images are decoded anew") == 2
    found, said = train("mended", "--data.cache", str(cache))
    assert (found, "cut short" in said) == (plain, False)
    found, said = train("refused", "--data.cache", str(tmp_path / "file" / "below"))
    assert found == plain
    assert f"warning: decoded images are not kept ({tmp_path / 'file'}" in said
    found, said = train("small", "--data.cache", str(tmp_path / "new"), "--data.cache_gb", "0.0001")
    assert found == plain
    assert "would be over data.cache_gb, 0.0001; delete what is old there" in said


def losses_of_a_step(config: Config, scaled: float) -> dict[str, Any]:
    """A body: an epoch of two steps under a scaler of fp16, whose first scale is `scaled`."""
    from cotrain_dist.training.steps import train_epoch

    students, images, ctx = build_students(config)
    student = students[0]
    student.scaler = torch.amp.GradScaler("cpu", init_scale=scaled)
    learned = images.table.labeled(Role.A, "own")
    before = [p.detach().clone() for p in student.model.parameters()]
    fit = train_epoch(student, learned, "pretrain", Position(), images.pixels, ctx)
    moved = any(
        not torch.equal(one, other)
        for one, other in zip(before, student.model.parameters(), strict=True)
    )
    ctx.runtime.close()
    return {"loss": fit.loss, "skipped": fit.num_skipped_steps, "moved": moved}


def test_a_step_that_the_scaler_skips_is_counted_and_spoils_no_loss(
    digits_folder: Path, tmp_path: Path
) -> None:
    config = tiny_config(digits_folder, tmp_path / "run", train={"batch_size": 20})
    (usual,) = run_ranks(losses_of_a_step, 1, tmp_path, config, 2.0)
    assert usual["skipped"] == 0
    # Scaled so, the first step's gradients overflow even in float32; the scale is then halved.
    (found,) = run_ranks(losses_of_a_step, 1, tmp_path, config, 3e38)
    assert (found["skipped"], found["moved"]) == (1, True)
    assert 0.5 * usual["loss"] < found["loss"] < 2 * usual["loss"]


def test_a_loss_that_is_not_finite_counts_under_the_scaler_of_fp16_alone() -> None:
    from cotrain_dist.training.steps import Losses, count_loss

    losses = Losses.none(torch.device("cpu"))
    for loss in (6.0, float("inf"), float("nan"), 2.0):
        losses += count_loss(torch.tensor(loss), 2, tolerant=True)
    assert (float(losses.total), float(losses.num)) == (8.0, 4.0)
    strict = count_loss(torch.tensor(float("inf")), 2, tolerant=False)
    assert (float(strict.total), float(strict.num)) == (float("inf"), 2.0)

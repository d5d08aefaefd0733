"""Settings as text: YAML, flat keys, and the digest that says which run they make."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, TypeVar

import yaml

from cotrain_dist.config.tree import Config

# data.splits_from and data.extra_labels are free: a resume reads the run's own splits.parquet.
FREE_ON_RESUME = (
    *("output_dir", "device", "placement", "distributed", "checkpoint", "tracking"),
    *("data.root", "data.num_workers", "data.splits_from", "data.extra_labels"),
    *("data.feature_cache", "data.cache", "data.cache_gb"),
)
"""Keys (or sections) that a resume may change: where the run lies and runs, not what it is."""

MAY_CHANGE = (
    *("exchange", "exchange_parity", "precision", "compile", "tf32", "deterministic"),
    *("cotrain.num_epochs", "cotrain.learning_rate", "cotrain.min_learning_rate"),
    *("cotrain.warmup_epochs", "data.augment", "data.crop_min_area", "pool.batch_size"),
    *("train.accumulation_steps", "train.batch_size", "train.class_balanced"),
    *("train.clip_grad_norm", "train.cutmix", "train.label_smoothing", "train.mixup"),
    *("train.least_labeled_fraction", "train.pseudo_view", "train.pseudo_weight"),
    *("train.pseudo_ramp_epochs", "train.schedule", "train.on_nan"),
    *("selection.rule", "selection.threshold", "selection.threshold_policy"),
    *("selection.top_k_per_class", "selection.weights", "selection.sharpen"),
    *(f"model_{m}.{key}" for m in "ab" for key in ("augment", "crop_min_area", "drop_rate")),
    *(f"model_{m}.{key}" for m in "ab" for key in ("drop_path_rate", "learning_rate_scale")),
)
"""Keys that `--allow-config-change` lets a resume change: each epoch reads them anew, and what the
run has kept fits all their values."""

# Not weight_decay: it lies in the optimizer's kept state, and the new value would do nothing.
MAY_CHANGE_IN_STEP_ONE = (
    *("pretrain.num_epochs", "pretrain.learning_rate", "pretrain.min_learning_rate"),
    *("pretrain.warmup_epochs", "pretrain.stop_at_train_accuracy", "pretrain.eval_every_epochs"),
    "pretrain.patience_epochs",
)
"""The same, as long as Step 2 has not begun."""


def config_to_yaml(config: Config) -> str:
    """The full tree in the order of its fields, fit for `--config`."""
    return yaml.safe_dump(asdict(config), sort_keys=False, allow_unicode=True)


def config_digest(config: Config) -> str:
    """SHA-256 over all settings that decide a result."""
    # A new key changes the digest, whatever its default: earlier runs are then refused on a resume.
    settings = {
        key: value for key, value in flatten(asdict(config)).items() if not is_free_on_resume(key)
    }
    return hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A tree of settings as dotted keys.

    >>> flatten({"seed": 0, "selection": {"threshold": 0.8}})
    {'seed': 0, 'selection.threshold': 0.8}
    """
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


Tree = TypeVar("Tree", bound=Any)


def with_settings(tree: Tree, settings: Mapping[str, object]) -> Tree:
    """Settings with other values at some dotted keys; the rules of each section hold.

    tree: a `Config` or one of its sections.

    >>> with_settings(Config(), {"seed": 3, "selection.threshold": 0.8}).selection.threshold
    0.8
    """
    changed: dict[str, Any] = {}
    sections: dict[str, dict[str, object]] = {}
    for key, value in settings.items():
        section, dot, rest = key.partition(".")
        if dot:
            sections.setdefault(section, {})[rest] = value
        else:
            changed[key] = value
    # All keys of a section at one time: between two of them its rules need not hold.
    changed |= {name: with_settings(getattr(tree, name), own) for name, own in sections.items()}
    result: Tree = replace(tree, **changed)
    return result


def is_free_on_resume(key: str) -> bool:
    """Whether a resume may change this setting."""
    return any(key == free or key.startswith(f"{free}.") for free in FREE_ON_RESUME)

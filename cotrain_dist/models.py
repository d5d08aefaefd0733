"""Models, optimizers and schedules from timm. The only importer of timm."""

import copy
import difflib
import errno
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import timm
import timm.data
import timm.models
import timm.optim
import timm.scheduler
import timm.utils
import torch
from huggingface_hub import get_session, hf_hub_download, hf_hub_url, try_to_load_from_cache
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cotrain_dist.config import CotrainConfig, PretrainConfig, RoleConfig, TrainConfig
from cotrain_dist.config.starts import CONFIG, WEIGHTS
from cotrain_dist.data.views import View
from cotrain_dist.errors import UserError
from cotrain_dist.keys import seeded
from cotrain_dist.store.atomic import replaced_folder
from cotrain_dist.store.checkpoint import file_digest
from cotrain_dist.types import Role

WARMUP_START_RATE = 1e-6

NO_MODEL = (OSError, RuntimeError, ValueError, AssertionError)
"""What timm raises for a model that cannot be built so."""

DOWNLOAD_SECONDS = 5.0
"""How long the hub may take to answer."""


@dataclass(frozen=True)
class Preprocessing:
    """How images become a model's input when measuring and labeling."""

    image_size: int
    center_crop_fraction: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def as_timm(self) -> dict[str, Any]:
        """In timm's words, as in the config.json of a saved model."""
        return {
            "input_size": (3, self.image_size, self.image_size),
            "interpolation": "bicubic",
            "mean": self.mean,
            "std": self.std,
            "crop_pct": self.center_crop_fraction,
            "crop_mode": "center",
        }

    def view(self) -> View:
        """Resize and center crop: timm's own, so that a saved model sees the same."""
        resize, crop, *normalizing = timm.data.create_transform(
            **self.as_timm(), is_training=False
        ).transforms
        # What is left makes float numbers of the square: `data.augment.normalize`, on the device.
        assert [type(step).__name__ for step in normalizing] == ["MaybeToTensor", "Normalize"]
        return View(
            f"center, bicubic, timm {timm.__version__}, crop {self.center_crop_fraction}",
            self.image_size,
            lambda image: crop(resize(image)),
        )


def center_view(image_size: int, center_crop_fraction: float) -> View:
    """The view in which any model measures and labels, by its settings alone."""
    unused = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # what comes after the view
    return Preprocessing(image_size, center_crop_fraction, *unused).view()


def check_names(role: Role, config: RoleConfig) -> None:
    """Raise UserError for names that timm does not know, naming the nearest."""
    if not timm.is_model(config.name):
        is_named = config.model.name is not None
        raise UserError(
            f"model_{role.value}.name" if is_named else f"model_{role.value}.pretrained",
            config.name if is_named else config.model.pretrained,
            "is no model of timm" if is_named else f"names {config.name}, no model of timm",
            _did_you_mean(config.name, timm.list_models()),
        )
    optimizer = config.train.optimizer
    if optimizer not in timm.optim.list_optimizers():
        raise UserError(
            f"model_{role.value}.optimizer" if config.model.optimizer else "train.optimizer",
            optimizer,
            "is no optimizer of timm",
            _did_you_mean(optimizer, timm.optim.list_optimizers()),
        )


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    return f"did you mean {' or '.join(nearest)}?" if nearest else f"try {known[0]}"


def build_model(config: RoleConfig, role: Role, class_names: Sequence[str]) -> nn.Module:
    """The model of a role with its first weights, keyed by seed and role; on the CPU.

    Raises UserError where it cannot be built, downloaded, or filled with the weights asked for.
    """
    own = config.model
    # The role is in the key: else two models of one architecture would begin with equal weights.
    with seeded(config.seed, "init", role.value):
        try:
            model = _create(config, len(class_names), own.pretrained)
            _try_image(model, config.image_size)
        except (*NO_MODEL, safetensors.SafetensorError) as error:
            raise _cannot_be_built(config, role, error) from error
    if own.init_from:
        _load_weights(model, Path(own.init_from), config, role, class_names)
    return model


def _cannot_be_built(config: RoleConfig, role: Role, error: Exception) -> UserError:
    why = str(error).splitlines()[0]
    if "allocate memory" in why:
        why = "not enough memory"  # the allocator names itself and a number of bytes
    if isinstance(config.model.pretrained, str):
        return UserError(
            f"model_{role.value}.pretrained",
            config.model.pretrained,
            f"its {config.name} cannot be used for {config.image_size} pixels ({why})",
            "copy the folder anew, or check data.image_size",
        )
    return UserError(
        f"model_{role.value}.name",
        config.name,
        f"cannot be built for {config.image_size} pixels ({why})",
        "check data.image_size",
    )


def _create(config: RoleConfig, num_classes: int, pretrained: bool | str = False) -> nn.Module:
    """pretrained: random weights, timm's published ones, or those of a folder, with a new head."""
    own = config.model
    options: dict[str, Any] = {"num_classes": num_classes, "drop_rate": own.drop_rate}
    # Models without stochastic depth refuse the option, even at 0.
    if own.drop_path_rate:
        options["drop_path_rate"] = own.drop_path_rate
    known = timm.models.get_pretrained_cfg(config.name)
    # Position embeddings are built for one size; convolutional models take no such option.
    if known is not None and known.fixed_input_size:
        options["img_size"] = config.image_size
    name = f"local-dir:{pretrained}" if isinstance(pretrained, str) else config.name
    model: Any = timm.create_model(name, pretrained=bool(pretrained), **options)
    if pretrained and model.pretrained_cfg["num_classes"] == num_classes:
        model.reset_classifier(num_classes)  # timm keeps it there: that of other classes, as many
    return cast(nn.Module, model)


@torch.no_grad()
def _try_image(model: nn.Module, image_size: int) -> None:
    """One forward pass: some models take a size when they are built and fail when they run."""
    model.eval()(torch.zeros(1, 3, image_size, image_size))
    model.train()


def fetch_published(name: str, key: str) -> None:
    """Download timm's weights of a model into the hub's cache, where they are not there yet.

    Raises UserError under `key` where they are not to be had, within seconds: the hub client alone
    would try again for a minute.
    """
    published = timm.models.get_pretrained_cfg(name)
    if published is None or not published.has_weights:
        rule = f"timm publishes no weights of {name}"
        raise UserError(key, "true", rule, "give false, or a folder with weights")
    repository = published.hf_hub_id
    if not repository or try_to_load_from_cache(repository, WEIGHTS):
        return
    url = hf_hub_url(repository, WEIGHTS)
    try:
        get_session().head(url, timeout=DOWNLOAD_SECONDS)
        hf_hub_download(repository, WEIGHTS)
    except Exception as error:  # of an HTTP client that may be another one tomorrow
        raise UserError(
            key,
            "true",
            f"the weights of {name} are not on this disk, and {url} does not answer ({error})",
            f"copy {CONFIG} and {WEIGHTS} of {repository} from a machine with a network into a "
            f"folder, and give --{key} FOLDER",
        ) from error


def _load_weights(
    model: nn.Module, folder: Path, config: RoleConfig, role: Role, class_names: Sequence[str]
) -> None:
    key = f"model_{role.value}.init_from"
    try:
        saved = json.loads((folder / CONFIG).read_text())
        # Where it was saved by this package, and not by an earlier version of it.
        digests = saved.get("cotrain_dist", {}).get("sha256")
        if digests is not None and digests != digests_of_saved(folder, saved):
            raise ValueError("its SHA-256 is not the one that it was saved with")
        weights = safetensors.torch.load_file(folder / WEIGHTS)
    except (
        *(OSError, ValueError, AttributeError, RecursionError),
        safetensors.SafetensorError,
    ) as error:
        raise UserError(
            key,
            folder,
            f"holds no saved model ({error})",
            f"name a folder with {WEIGHTS} and {CONFIG}, such as RUN/models/best",
        ) from error
    if saved.get("architecture") != config.name:
        raise UserError(
            key,
            folder,
            f"holds {saved.get('architecture')}, but model_{role.value}.name is {config.name}",
            "make the two equal",
        )
    # The order counts: a logit is the class at its place in this list.
    if list(saved.get("label_names", [])) != list(class_names):
        raise UserError(
            key, folder, "knows other classes than this data", "recycle it on data with its classes"
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError(
            key,
            folder,
            f"does not fit the model ({str(error).splitlines()[0]})",
            "use the data.image_size that it was trained with",
        ) from error
    # Those that it was trained with, which may be of a folder in `pretrained` and not of timm.
    given = saved.get("pretrained_cfg") or {}
    values = {key: tuple(given[key]) for key in ("mean", "std") if given.get(key)}
    cast(Any, model).pretrained_cfg = {**cast(Any, model).pretrained_cfg, **values}


def preprocessing_of(
    model: nn.Module, image_size: int, center_crop_fraction: float
) -> Preprocessing:
    """The model's own mean and standard deviation with the configured size."""
    data_config = timm.data.resolve_model_data_config(model)
    return Preprocessing(
        image_size,
        center_crop_fraction,
        tuple(data_config["mean"]),
        tuple(data_config["std"]),
    )


def num_classes_of(model: nn.Module) -> int:
    """How many logits a model gives for an image."""
    return int(cast(Any, model).num_classes)


def build_average(model: nn.Module, decay: float) -> timm.utils.ModelEmaV3:
    """A copy of a model that `update(model, step)` moves towards it: parameters and buffers.

    With timm's warm-up; steps count from 1.
    """
    average = timm.utils.ModelEmaV3(model, decay=decay, use_warmup=True)
    return average.requires_grad_(False)


def head_of(model: nn.Module, key: str) -> nn.Linear:
    """The last layer of a model. Raises UserError under `key` where it is not one linear layer."""
    head = cast(Any, model).get_classifier()
    if not isinstance(head, nn.Linear):
        raise UserError(
            key,
            "head",
            f"{type(model).__name__} does not end in one linear layer",
            "choose another model, or train all of it",
        )
    return head


@torch.no_grad()
def features_of(model: nn.Module, images: Tensor) -> Tensor:
    """What the last layer of a model is given. images: on its device -> [n, F] float32, CPU."""
    whole = cast(Any, model)
    features: Tensor = whole.forward_head(whole.forward_features(images), pre_logits=True)
    return features.float().cpu()


def operations_per_image(config: RoleConfig) -> float:
    """Floating-point operations of one forward pass; 0 for a model that cannot be built so.

    `build_model` then says why.
    """
    try:
        with seeded("operations"):
            # No data are listed yet, so any number of classes; the order of two models is all that
            # counts.
            model = _create(config, num_classes=10)
        with FlopCounterMode(display=False) as counter:
            _try_image(model, config.image_size)
    except NO_MODEL:
        return 0.0
    return float(counter.get_total_flops())


def build_optimizer(
    model: nn.Module, config: TrainConfig, learning_rate: float
) -> torch.optim.Optimizer:
    """The optimizer of timm's factory, without weight decay on biases and normalization."""
    optimizer: torch.optim.Optimizer = timm.optim.create_optimizer_v2(
        model, opt=config.optimizer, lr=learning_rate, weight_decay=config.weight_decay
    )
    return optimizer


class Schedule:
    """timm's schedule as a pure function of progress: the rate at a fractional epoch."""

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        config: TrainConfig,
        phase: PretrainConfig | CotrainConfig,
    ) -> None:
        for group in optimizer.param_groups:
            group["lr"] = phase.learning_rate
            group.pop("initial_lr", None)  # else a kept optimizer keeps the earlier phase's rate
        self._optimizer, self._phase = optimizer, phase
        # A phase of no epochs takes no steps, but timm refuses a schedule without length.
        num_epochs = max(phase.num_schedule_epochs, 1)
        self._schedule, _ = timm.scheduler.create_scheduler_v2(
            optimizer,
            sched=config.schedule,
            num_epochs=num_epochs,
            decay_epochs=max(num_epochs / 3, 1),
            min_lr=phase.min_learning_rate,
            # A warm-up to a rate below this one would fall instead of rise.
            warmup_lr=min(WARMUP_START_RATE, phase.learning_rate),
            warmup_epochs=phase.num_warmup_epochs,
        )

    def set_rate(self, progress_epochs: float) -> float:
        """Set and return the rate after so many epochs of the phase, 0 at its start.

        Where each round of Step 2 starts anew, so does the schedule.
        """
        # A function of progress alone: nothing of a schedule has to be saved or restored.
        self._schedule.step(self._phase.schedule_epochs(progress_epochs))
        return float(self._optimizer.param_groups[0]["lr"])


def save_model(
    model: nn.Module,
    folder: Path,
    preprocessing: Preprocessing,
    class_names: Sequence[str],
    notes: dict[str, Any],
) -> None:
    """Write model.safetensors and config.json, which timm loads as `local-dir:FOLDER`.

    notes: JSON values about the model's making, kept in config.json as `cotrain_dist`.
    """
    # A copy: safetensors takes no channels-last tensors, and the model trains on as it is.
    plain = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
    settings = {
        "pretrained_cfg": preprocessing.as_timm(),
        "label_names": list(class_names),
        "cotrain_dist": notes,
    }
    with replaced_folder(folder) as beside:
        try:
            timm.models.save_for_hf(plain, beside, model_config=settings, safe_serialization=True)
        except safetensors.SafetensorError as error:  # how it tells of a full disk
            raise OSError(errno.EIO, f"cannot be written ({error})", str(folder)) from error
        saved = json.loads((beside / CONFIG).read_text())
        saved["cotrain_dist"]["sha256"] = digests_of_saved(beside, saved)
        (beside / CONFIG).write_text(json.dumps(saved, indent=2))


def digests_of_saved(folder: Path, saved: Mapping[str, Any]) -> dict[str, str]:
    """SHA-256 of the weights of a saved model, and of what its config.json says but for notes."""
    said = {key: value for key, value in saved.items() if key != "cotrain_dist"}
    text = json.dumps(said, sort_keys=True).encode()
    weights = file_digest(folder / WEIGHTS)
    return {"weights": weights, "settings": hashlib.sha256(text).hexdigest()}


def load_saved(folder: Path) -> nn.Module:
    """A model that `save_model` wrote, in evaluation mode. Raises UserError where there is none."""
    if not (folder / "model.safetensors").is_file():
        raise UserError("models", folder, "holds no saved model", "name a folder of RUN/models")
    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()

"""The settings: one tree of frozen dataclasses with every key, default, unit and rule.

Importing this module imports no torch, so that a mistyped key costs no seconds.
"""

from dataclasses import dataclass, field
from typing import Literal

from cotrain_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images come from and how they are cut into the groups T, L_A, L_B, U and V."""

    source: Literal["digits", "imagefolder"] = "digits"
    """`digits`: 1,797 handwritten digits, embedded. `imagefolder`: one folder a class in `root`."""
    root: str | None = None
    """Folder of `imagefolder`."""
    groups_from: str | None = None
    """A run directory (or its groups.parquet) whose groups are taken over instead of drawn."""
    image_size: int = 64
    """Side in pixels of the square images that the models see."""
    center_crop_fraction: float = 0.875
    """Share of the resized image's side kept by the center crop when measuring and labeling."""
    augment: Literal["auto", "crop_flip", "none"] = "auto"
    """In training: random resized crop and flip, or nothing. `auto`: nothing for digits."""
    crop_min_area: float = 0.35
    """Least share of the image's area that a random crop keeps."""
    test_fraction: float = 0.2
    """Share of each class that goes to T."""
    test_per_class: int | None = None
    """Images of each class for T, instead of `test_fraction`."""
    labeled_fraction: float = 0.2
    """Share of each class that goes to L_A, and as much again to L_B."""
    labeled_per_class: int | None = None
    """Images of each class for L_A, and as many for L_B, instead of `labeled_fraction`."""
    validation_fraction: float = 0.0
    """Share of each class that goes to V, taken from the share of U; 0 draws no V."""
    num_workers: int = 0
    """Processes a rank that decode and augment; any number gives the same stream of images."""

    def __post_init__(self) -> None:
        if self.source == "imagefolder" and not self.root:
            raise UserError(
                "data.root",
                self.root,
                "data.source imagefolder needs a folder",
                "name one that holds one folder a class",
            )
        if self.image_size < 8:
            raise UserError(
                "data.image_size", self.image_size, "must be at least 8 pixels", "try 64 or 224"
            )
        if not 0.0 < self.center_crop_fraction <= 1.0:
            raise UserError(
                "data.center_crop_fraction",
                self.center_crop_fraction,
                "must be above 0 and at most 1",
                "0.875 is usual, 1 keeps the whole side",
            )
        if not 0.0 < self.crop_min_area <= 1.0:
            raise UserError(
                "data.crop_min_area",
                self.crop_min_area,
                "must be above 0 and at most 1",
                "0.35 is the default, 1 switches random crops off",
            )
        self._check_shares()
        if self.num_workers < 0:
            raise UserError(
                "data.num_workers", self.num_workers, "must not be negative", "0 uses no workers"
            )

    def _check_shares(self) -> None:
        for name in ("test_fraction", "labeled_fraction"):
            value = getattr(self, name)
            if not 0.0 < value < 1.0:
                raise UserError(
                    f"data.{name}",
                    value,
                    "must lie between 0 and 1",
                    f"for a number of images give data.{name.removesuffix('_fraction')}_per_class",
                )
        for name in ("test_per_class", "labeled_per_class"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(
                    f"data.{name}", value, "must be at least 1", "leave it out to use the fraction"
                )
        if not 0.0 <= self.validation_fraction < 1.0:
            raise UserError(
                "data.validation_fraction",
                self.validation_fraction,
                "must be at least 0 and below 1",
                "0 draws no validation group",
            )
        used = self.validation_fraction
        used += self.test_fraction if self.test_per_class is None else 0.0
        used += 2 * self.labeled_fraction if self.labeled_per_class is None else 0.0
        if used >= 1.0:
            raise UserError(
                "data.labeled_fraction",
                self.labeled_fraction,
                f"T, V, L_A and L_B (twice this) take {used:.2f} of the data and leave none to U",
                "lower the fractions until their sum is below 1",
            )

    @property
    def augments(self) -> bool:
        """Whether training images are randomly cropped and flipped."""
        return self.augment == "crop_flip" or (self.augment == "auto" and self.source != "digits")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """One of the two models."""

    name: str = "efficientnet_b0"
    """Any model name of timm."""
    pretrained: bool = False
    """Start from timm's published weights (a download) instead of random ones."""
    init_from: str | None = None
    """Start from a folder such as RUN/models/best: model.safetensors and config.json."""
    drop_rate: float = 0.0
    """Dropout before the classifier, 0 to 1."""
    drop_path_rate: float = 0.0
    """Stochastic depth, 0 to 1, for the models that have it."""

    def __post_init__(self) -> None:
        if self.pretrained and self.init_from:
            raise UserError(
                "init_from",
                self.init_from,
                "the same model asks for pretrained: true",
                "keep one of the two",
            )
        for name in ("drop_rate", "drop_path_rate"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise UserError(
                    name, getattr(self, name), "must be at least 0 and below 1", "0 drops nothing"
                )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What both phases and both models share."""

    batch_size: int = 64
    """Images an optimizer step, over all ranks of a role; a rank's share is derived."""
    accumulation_steps: int = 1
    """Micro-batches that one step is cut into on each rank, to save memory."""
    optimizer: str = "adamw"
    """Any optimizer name of timm."""
    weight_decay: float = 0.05
    """Decoupled weight decay; timm leaves biases and normalization out."""
    schedule: Literal["cosine", "tanh", "poly", "step"] = "cosine"
    """The schedule of timm that the rate follows after the warm-up, in both phases."""
    label_smoothing: float = 0.0
    """Share of each target spread evenly over all classes."""
    clip_grad_norm: float | None = None
    """Largest norm of a step's gradient; none leaves it as it is."""
    channels_last: bool = True
    """Memory layout; on a CPU EfficientNet-B0 trains about twice as fast with it."""

    def __post_init__(self) -> None:
        if self.batch_size < 2:
            raise UserError(
                "train.batch_size",
                self.batch_size,
                "must be at least 2: batch normalization needs two images",
                "try 64",
            )
        if self.accumulation_steps < 1:
            raise UserError(
                "train.accumulation_steps", self.accumulation_steps, "must be at least 1", "try 1"
            )
        if self.weight_decay < 0.0:
            raise UserError(
                "train.weight_decay", self.weight_decay, "must not be negative", "0 switches it off"
            )
        if not 0.0 <= self.label_smoothing < 1.0:
            raise UserError(
                "train.label_smoothing",
                self.label_smoothing,
                "must be at least 0 and below 1",
                "0 switches it off, 0.1 is usual",
            )
        if self.clip_grad_norm is not None and self.clip_grad_norm <= 0.0:
            raise UserError(
                "train.clip_grad_norm",
                self.clip_grad_norm,
                "must be above 0",
                "give null to leave gradients as they are",
            )


def _check_rates(
    section: str, num_epochs: int, learning_rate: float, warmup_epochs: float, min_rate: float
) -> None:
    if num_epochs < 0:
        raise UserError(
            f"{section}.num_epochs", num_epochs, "must not be negative", "0 leaves this phase out"
        )
    if learning_rate <= 0.0:
        raise UserError(f"{section}.learning_rate", learning_rate, "must be above 0", "try 0.001")
    if warmup_epochs < 0 or 0 < num_epochs <= warmup_epochs:
        raise UserError(
            f"{section}.warmup_epochs",
            warmup_epochs,
            f"must be at least 0 and below {section}.num_epochs, {num_epochs}",
            "0 switches the warm-up off",
        )
    if not 0.0 <= min_rate <= learning_rate:
        raise UserError(
            f"{section}.min_learning_rate",
            min_rate,
            f"must lie between 0 and {section}.learning_rate, {learning_rate}",
            "0 lets the rate fall to nothing",
        )


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """Step 1: A on L_A, B on L_B."""

    num_epochs: int = 50
    """Epochs of each model (50 in the paper)."""
    learning_rate: float = 1e-3
    """Largest rate of the schedule."""
    min_learning_rate: float = 1e-5
    """Rate at the end of the schedule."""
    warmup_epochs: int = 2
    """Epochs over which the rate rises."""
    stop_at_train_accuracy: float | None = None
    """Stop a model early once it fits its labels this well (0..1); measured at each epoch's end."""
    eval_every_epochs: int = 5
    """Measure on T after every so many epochs, and after the last."""

    def __post_init__(self) -> None:
        _check_rates(
            "pretrain",
            self.num_epochs,
            self.learning_rate,
            self.warmup_epochs,
            self.min_learning_rate,
        )
        stop = self.stop_at_train_accuracy
        if stop is not None and not 0.0 < stop <= 1.0:
            raise UserError(
                "pretrain.stop_at_train_accuracy",
                stop,
                "must be above 0 and at most 1",
                "0.99 is the paper's; null trains all epochs",
            )
        if self.eval_every_epochs < 1:
            raise UserError(
                "pretrain.eval_every_epochs",
                self.eval_every_epochs,
                "must be at least 1",
                "a number above pretrain.num_epochs measures after the last epoch alone",
            )


@dataclass(frozen=True, kw_only=True)
class CotrainConfig:
    """Step 2: the active-learning epochs."""

    num_epochs: int = 20
    """Epochs, each opened by one exchange (20 in the paper)."""
    learning_rate: float = 5e-4
    """Largest rate of the schedule."""
    min_learning_rate: float = 1e-5
    """Rate at the end of the schedule."""
    warmup_epochs: int = 1
    """Epochs over which the rate rises."""
    optimizer: Literal["fresh", "keep"] = "fresh"
    """Start Step 2 with a new optimizer, or keep the moments of pre-training."""

    def __post_init__(self) -> None:
        _check_rates(
            "cotrain",
            self.num_epochs,
            self.learning_rate,
            self.warmup_epochs,
            self.min_learning_rate,
        )


@dataclass(frozen=True, kw_only=True)
class SelectionConfig:
    """Which images of U become R_A and R_B."""

    threshold: float = 0.8
    """τ, on the largest softmax probability: sure is above it, unsure below. Not in the paper."""

    def __post_init__(self) -> None:
        if not 0.0 < self.threshold < 1.0:
            raise UserError(
                "selection.threshold", self.threshold, "must lie between 0 and 1", "try 0.8"
            )


@dataclass(frozen=True, kw_only=True)
class PoolConfig:
    """The pseudo-label pass over U."""

    chunk_size: int = 128
    """Images of a forward pass without gradients. Fixed chunks, whole on one rank, keep the codes
    bit-equal for every number of ranks."""

    def __post_init__(self) -> None:
        if self.chunk_size < 1:
            raise UserError("pool.chunk_size", self.chunk_size, "must be at least 1", "try 128")


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """Which ranks train which model."""

    ranks_a: list[int] | None = None
    """Global ranks of role A; the others are role B's. None: halves, the odd rank to the model
    that needs more operations an image."""


@dataclass(frozen=True, kw_only=True)
class DistributedConfig:
    """Time limits between ranks."""

    timeout_seconds: float = 1800.0
    """Limit of a collective inside a role group, whose ranks work in step."""
    lost_after_seconds: float = 60.0
    """A rank that gives no sign of life for so long is lost, and the others end."""
    wait_for_peer_seconds: float = 604800.0
    """Limit on waiting for the other role, which may train much longer; a dead one is noticed
    after `lost_after_seconds`."""

    def __post_init__(self) -> None:
        for name in ("timeout_seconds", "lost_after_seconds", "wait_for_peer_seconds"):
            if getattr(self, name) < 1.0:
                raise UserError(
                    f"distributed.{name}",
                    getattr(self, name),
                    "must be at least 1 second",
                    "leave it out for the default",
                )


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run."""

    data: DataConfig = field(default_factory=DataConfig)
    """Images and groups."""
    model_a: ModelConfig = field(default_factory=ModelConfig)
    """Model A."""
    model_b: ModelConfig = field(default_factory=ModelConfig)
    """Model B."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """Steps of both phases."""
    pretrain: PretrainConfig = field(default_factory=PretrainConfig)
    """Step 1."""
    cotrain: CotrainConfig = field(default_factory=CotrainConfig)
    """Step 2."""
    selection: SelectionConfig = field(default_factory=SelectionConfig)
    """R_A and R_B."""
    exchange: Literal["alternate", "peer", "own", "none"] = "alternate"
    """Whose R a model learns: its own and the peer's in turn, the peer's, its own, or none."""
    exchange_parity: Literal["even_own", "odd_own"] = "even_own"
    """`alternate`: epochs (counted from 1) in which a model learns its own R."""
    labels: Literal["own", "shared"] = "own"
    """Labeled images of Step 2: each model its own group, or both L_A and L_B."""
    pool: PoolConfig = field(default_factory=PoolConfig)
    """The pass over U."""
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    """Ranks of A and B."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """Time limits."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPUs where there are any."""
    seed: int = 0
    """Decides groups, first weights, order, augmentation and dropout."""
    output_dir: str = "runs/cotrain"
    """The run directory; must not exist yet."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError("seed", self.seed, "must not be negative", "give a number such as 0")
        if self.pretrain.num_epochs == 0 and self.cotrain.num_epochs == 0:
            raise UserError(
                "cotrain.num_epochs",
                0,
                "pretrain.num_epochs is 0 as well, so nothing would be trained",
                "give one of them an epoch or more",
            )

"""The tree of all settings."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cotrain_dist.config.consistency import ConsistencyConfig
from cotrain_dist.config.data import DataConfig, augmentation_of
from cotrain_dist.config.model import ModelConfig
from cotrain_dist.config.running import (
    MEAN_RULES,
    CheckpointConfig,
    DistributedConfig,
    PlacementConfig,
    PoolConfig,
    SelectionConfig,
)
from cotrain_dist.config.starts import read_start_folder
from cotrain_dist.config.structure import StructureConfig
from cotrain_dist.config.training import CotrainConfig, PretrainConfig, TrainConfig, scale_rates
from cotrain_dist.errors import UserError

DEFAULT_NAME, DEFAULT_IMAGE_SIZE = "efficientnet_b0", 64

PUBLISHED_NAMES = {"a": "tf_efficientnet_lite0", "b": "tf_efficientnet_lite1"}
"""What `pretrained: true` means without a name: two small backbones, since two views of an image
are worth more than one (docs/results.md)."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """All settings of a run."""

    recipe: Literal["paper", "synergy"] = "paper"
    """A set of defaults: the paper's rule, or what earns more from the images without labels. A
    field that is given wins; `--print_config` shows the outcome."""
    data: DataConfig = field(default_factory=DataConfig)
    """Images and splits."""
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
    structure: StructureConfig = field(default_factory=StructureConfig)
    """What the images of U say about each other."""
    consistency: ConsistencyConfig = field(default_factory=ConsistencyConfig)
    """Unlabeled images within the steps of Step 2."""
    # `alternate` is the paper's Condition 2. Its Condition 1 can be read in three ways: `peer`,
    # `own`, or `none` with shared labels.
    exchange: Literal["alternate", "peer", "own", "none"] = "alternate"
    """Whose R a model learns: its own and the peer's in turn, the peer's, its own, or none."""
    # The paper says both: its own R in even epochs (section 3), in odd ones (section 4.2).
    exchange_parity: Literal["even_own", "odd_own"] = "even_own"
    """`alternate`: epochs (counted from 1) in which a model learns its own R."""
    # The paper leaves open which labeled images go with R.
    labels: Literal["own", "shared"] = "own"
    """Labeled images of Step 2: each model its own split, or both L_A and L_B."""
    pool: PoolConfig = field(default_factory=PoolConfig)
    """The pass over U."""
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    """Ranks of A and B."""
    distributed: DistributedConfig = field(default_factory=DistributedConfig)
    """Time limits."""
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    """Commits."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPUs where there are any."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` takes the launcher's. Exactness: each is reproducible, but results differ between
    them, and codes of confidence are coarser below fp32."""
    compile: bool = False
    """torch.compile the training step; labeling and measuring stay as they are. Exactness: other
    kernels, so other bits than without; a new torch or GPU may change them again."""
    tf32: bool = False
    """Let GPUs multiply float32 with 10-bit mantissas: faster, and less exact to that degree."""
    deterministic: bool = False
    """Ask GPUs for the same bits in every run: slower, and an operation that cannot do it ends the
    run. Exactness: without it, a resumed run on GPUs need not be bit-equal; CPUs need no asking."""
    tracking: Literal["none", "tensorboard", "wandb", "mlflow", "trackio"] = "none"
    """Send the history's numbers to a tracker of Accelerate, too; its package must be there.
    tensorboard and wandb also get up to 8 images that each model learns in an epoch."""
    seed: int = 0
    """Decides splits, first weights, order, augmentation and dropout."""
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
        self._check_probabilities()
        self._check_fitted_heads()
        self._check_structure()
        self._check_steps_of_heads()
        self._check_views()
        self._check_consistency()
        self._check_exact()
        self._check_norms()

    @property
    def structure_features(self) -> Literal["start", "current"]:
        """What `structure.features` amounts to."""
        if self.structure.features != "auto":
            return self.structure.features
        begun = [own.pretrained or own.init_from for own in (self.model_a, self.model_b)]
        return "start" if all(begun) else "current"

    def _check_norms(self) -> None:
        """Raise UserError where statistics would stay those of a model that has seen nothing."""
        for name in ("model_a", "model_b"):
            own: ModelConfig = getattr(self, name)
            if self.train.norm == "frozen" and not (own.pretrained or own.init_from):
                raise UserError(
                    "train.norm",
                    "frozen",
                    f"keeps the statistics that a model comes with, and {name} begins at random",
                    f"give {name}.pretrained or {name}.init_from, or take local",
                )

    def _check_probabilities(self) -> None:
        """Raise UserError for what needs the probabilities of all classes, which are not kept."""
        if self.pool.keep == "probabilities":
            return
        rule, targets, kind = self.selection.rule, self.selection.targets, self.structure.kind
        for key, value, is_needed in (
            ("selection.rule", rule, rule in MEAN_RULES),
            ("selection.targets", targets, targets == "soft"),
            ("structure.kind", kind, kind != "off"),
            ("cotrain.final_epochs", self.cotrain.final_epochs, self.cotrain.final_epochs > 0),
        ):
            if is_needed:
                raise UserError(
                    key,
                    value,
                    f"needs the probabilities of all classes, and pool.keep is {self.pool.keep}",
                    "give pool.keep probabilities as well",
                )

    def _check_steps_of_heads(self) -> None:
        """What needs steps and images, where models fit their last layer to features."""
        heads = [name for name in ("a", "b") if getattr(self, f"model_{name}").train == "head"]
        if heads and self.consistency.is_on:
            raise UserError(
                "consistency.teacher",
                self.consistency.teacher,
                f"model_{heads[0]}.train is head, and a fit of features has no views of images",
                "train all of both models, or leave it off",
            )
        if len(heads) < 2:
            return
        for name in ("pseudo_view", "mixup", "cutmix", "ema_decay"):
            if getattr(self.train, name) not in (getattr(TrainConfig(), name), "auto"):
                raise UserError(
                    f"train.{name}",
                    getattr(self.train, name),
                    "does nothing where both models have train: head, which take no steps",
                    "leave it out, or train all of a model",
                )

    def _check_fitted_heads(self) -> None:
        """Raise UserError where a last layer is to be fitted to what random weights give."""
        for name in ("a", "b"):
            own = getattr(self, f"model_{name}")
            if self.pretrain.fit_head and not (own.pretrained or own.init_from):
                raise UserError(
                    "pretrain.fit_head",
                    "true",
                    f"model_{name} begins with random weights, which give no features",
                    f"give model_{name}.pretrained or model_{name}.init_from, or leave it out",
                )

    def _check_exact(self) -> None:
        """What `train.exact_elastic` cannot add up without rounding."""
        if self.train.exact_elastic and self.consistency.fairness:
            raise UserError(
                "consistency.fairness",
                self.consistency.fairness,
                "is a loss of all images of a step at once, and train.exact_elastic cuts steps",
                "give fairness 0, or train.exact_elastic 0",
            )

    def _check_structure(self) -> None:
        heads = [name for name in ("a", "b") if getattr(self, f"model_{name}").train == "head"]
        if heads and self.structure.features == "current":
            raise UserError(
                "structure.features",
                "current",
                f"model_{heads[0]}.train is head, whose features stay as they were at the start",
                "leave it out",
            )

    def _check_views(self) -> None:
        """Weak and strong views are augmentations: without any there are none."""
        asked = "train.pseudo_view" if self.train.pseudo_view in ("strong", "in_turn") else ""
        asked = "consistency.teacher" if self.consistency.is_on else asked
        for name in ("a", "b"):
            own: ModelConfig = getattr(self, f"model_{name}")
            given = own.augment or self.data.augment
            is_off = augmentation_of(given, self.data.source) == "off"
            if asked and is_off and own.train == "all":
                raise UserError(
                    f"model_{name}.augment" if own.augment else "data.augment",
                    given if given == "off" else f"{given} (off for {self.data.source})",
                    f"{asked} needs weak and strong views",
                    "give crop_flip or strong",
                )

    def _check_consistency(self) -> None:
        if self.consistency.teacher == "ema" and not self.train.ema_decay:
            raise UserError(
                "consistency.teacher",
                "ema",
                "train.ema_decay is 0, so there is none",
                "give train.ema_decay, such as 0.999, or --consistency.teacher own",
            )
        for name in ("least_labeled_fraction", "class_balanced"):
            if self.consistency.is_on and getattr(self.train, name):
                raise UserError(
                    f"train.{name}",
                    getattr(self.train, name),
                    "consistency.ratio decides which images a step of Step 2 holds",
                    "leave it out, or consistency.teacher off",
                )
        if self.consistency.fairness and self.train.accumulation_steps > 1:
            raise UserError(
                "consistency.fairness",
                self.consistency.fairness,
                "is a loss of all images of a step at once, and train.accumulation_steps is "
                f"{self.train.accumulation_steps}",
                "give train.accumulation_steps 1, or fairness 0",
            )


@dataclass(frozen=True, kw_only=True)
class RoleConfig:
    """The settings of one model: its own values where it has some, else the common ones.

    Made once, by `resolve_role`. Below the setup of a training nobody chooses between the two.
    """

    model: ModelConfig
    name: str
    """Of timm's architecture."""
    train: TrainConfig
    pretrain: PretrainConfig
    """With this model's rates."""
    cotrain: CotrainConfig
    """With this model's rates."""
    consistency: ConsistencyConfig
    image_size: int
    center_crop_fraction: float
    crop_min_area: float
    augmentation: Literal["crop_flip", "strong", "off"]
    """Of training images."""
    compile: bool
    seed: int


def _default_name(own: ModelConfig, name: str) -> str:
    return PUBLISHED_NAMES[name] if own.pretrained else DEFAULT_NAME


def resolve_role(config: Config, name: str) -> RoleConfig:
    """The settings of model `a` or `b`. Reads config.json of a folder that it is to start from.

    Raises UserError where that folder holds no model, or another one than the settings name.
    """
    own: ModelConfig = getattr(config, f"model_{name}")
    start = None
    if isinstance(own.pretrained, str):
        start = read_start_folder(Path(own.pretrained), f"model_{name}.pretrained")
        if own.name not in (None, start.architecture):
            raise UserError(
                f"model_{name}.name",
                own.name,
                f"model_{name}.pretrained names a {start.architecture}",
                "leave one of the two out",
            )
    augmentation = augmentation_of(own.augment or config.data.augment, config.data.source)
    view = config.train.pseudo_view
    if view == "auto":
        view = "same" if augmentation == "off" else "in_turn"
    # No `or` here: 0 is a weight decay too. The values below that use `or` cannot be 0.
    decay = config.train.weight_decay if own.weight_decay is None else own.weight_decay
    return RoleConfig(
        model=own,
        name=own.name or (start.architecture if start else _default_name(own, name)),
        train=replace(
            config.train,
            optimizer=own.optimizer or config.train.optimizer,
            weight_decay=decay,
            pseudo_view=view,
        ),
        pretrain=scale_rates(config.pretrain, own.learning_rate_scale),
        cotrain=scale_rates(config.cotrain, own.learning_rate_scale),
        consistency=config.consistency,
        image_size=(
            own.image_size
            or config.data.image_size
            or (start.image_size if start else None)
            or DEFAULT_IMAGE_SIZE
        ),
        center_crop_fraction=config.data.center_crop_fraction,
        crop_min_area=own.crop_min_area or config.data.crop_min_area,
        augmentation=augmentation,
        compile=config.compile,
        seed=config.seed,
    )

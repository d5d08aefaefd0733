"""The tree of all settings."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from cotrain_dist.config.data import DataConfig, augmentation_of
from cotrain_dist.config.model import ModelConfig
from cotrain_dist.config.running import (
    MEAN_RULES,
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
    """Send the history's numbers to a tracker of Accelerate, too; its package must be there."""
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

    @property
    def structure_features(self) -> Literal["start", "current"]:
        """What `structure.features` amounts to."""
        if self.structure.features != "auto":
            return self.structure.features
        begun = [own.pretrained or own.init_from for own in (self.model_a, self.model_b)]
        return "start" if all(begun) else "current"

    def _check_probabilities(self) -> None:
        """Raise UserError for what needs the probabilities of all classes, which are not kept."""
        if self.pool.keep == "probabilities":
            return
        rule, targets, kind = self.selection.rule, self.selection.targets, self.structure.kind
        for key, value, is_needed in (
            ("selection.rule", rule, rule in MEAN_RULES),
            ("selection.targets", targets, targets == "soft"),
            ("structure.kind", kind, kind != "off"),
        ):
            if is_needed:
                raise UserError(
                    key,
                    value,
                    f"needs the probabilities of all classes, and pool.keep is {self.pool.keep}",
                    "give pool.keep probabilities as well",
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
    # No `or` here: 0 is a weight decay too. The values below that use `or` cannot be 0.
    decay = config.train.weight_decay if own.weight_decay is None else own.weight_decay
    return RoleConfig(
        model=own,
        name=own.name or (start.architecture if start else _default_name(own, name)),
        train=replace(
            config.train, optimizer=own.optimizer or config.train.optimizer, weight_decay=decay
        ),
        pretrain=scale_rates(config.pretrain, own.learning_rate_scale),
        cotrain=scale_rates(config.cotrain, own.learning_rate_scale),
        image_size=(
            own.image_size
            or config.data.image_size
            or (start.image_size if start else None)
            or DEFAULT_IMAGE_SIZE
        ),
        center_crop_fraction=config.data.center_crop_fraction,
        crop_min_area=own.crop_min_area or config.data.crop_min_area,
        augmentation=augmentation_of(own.augment or config.data.augment, config.data.source),
        compile=config.compile,
        seed=config.seed,
    )

"""Settings of steps and phases."""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal, TypeVar

from cotrain_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What both phases and both models share."""

    # Of the role and not of a rank: the steps of an epoch must not depend on the world's size.
    batch_size: int = 64
    """Images per optimizer step, over all ranks of a role; what one rank takes is derived."""
    accumulation_steps: int = 1
    """Micro-batches that one step is cut into on each rank, to save memory."""
    optimizer: str = "adamw"
    """Any optimizer name of timm."""
    weight_decay: float = 0.05
    """Decoupled weight decay; timm leaves biases and normalization out."""
    schedule: Literal["cosine", "tanh", "poly", "step"] = "cosine"
    """The schedule of timm that the rate follows after the warm-up, in both phases."""
    loss: Literal["cross_entropy"] = "cross_entropy"
    """What a step minimizes; `cross_entropy` between logits and targets."""
    label_smoothing: float = 0.0
    """Fraction of each target that is spread evenly over all classes."""
    clip_grad_norm: float | None = None
    """Largest norm of a step's gradient; none leaves it as it is."""
    on_nan: Literal["stop", "skip_step"] = "stop"
    """What a loss that is not finite does: `stop` ends all ranks and names step and images;
    `skip_step` leaves the step out, at most 10 in a row (on GPUs each step then waits for its
    gradient). fp16 leaves such steps out in any case."""
    norm: Literal["local", "sync", "frozen"] = "local"
    """What batch normalization goes by in training: the images of one rank (`local`: another number
    of ranks is another training), those of all ranks of the model, or, `frozen`, the statistics
    that a published model comes with."""
    exact_elastic: int = 0
    """Micro-shards that each step is cut into, on any number of ranks up to it: their gradients and
    statistics are added up without rounding, so 1, 2, 3, .. ranks of a model, and a resume with
    another number, give the same bits. 0 is off; 12 divides evenly among up to four ranks."""
    channels_last: bool = True
    """Memory layout; on a CPU EfficientNet-B0 trains about twice as fast with it."""
    pseudo_weight: float = 1.0
    """Factor on the loss of each image of R."""
    pseudo_ramp_epochs: int = 0
    """Epochs of Step 2 over which that factor rises: 2 gives a third, two thirds, and then all."""
    least_labeled_fraction: float = 0.0
    """Least fraction of labeled images in each step of Step 2. They are repeated where L is smaller
    than that, and R decides how long an epoch is. Heads (`model_a.train: head`): of the weight."""
    class_balanced: bool = False
    """Draw the labeled images of an epoch so that each class that has some comes equally often.
    Heads: each class weighs the same."""
    pseudo_view: Literal["same", "strong", "in_turn", "auto"] = "same"
    """How images of R are augmented: as all images of the model; `strong`; or `in_turn`, crop_flip
    in odd epochs of Step 2 and strong in even ones. `auto`: in_turn where images are augmented."""
    mixup: float = 0.0
    """Alpha of mixup: each image becomes a weighted mean of two. 0 is off, 0.2 is usual. Exactness:
    pairs are images of one rank, so another number of ranks is another training."""
    cutmix: float = 0.0
    """Alpha of CutMix: a box of each image comes from another one. 0 is off, 1 is usual; with mixup
    as well, each step takes one of the two by chance. Exactness: as mixup."""
    ema_decay: float = 0.0
    """Most that a step keeps of the moving average (EMA) of weights and buffers, which then labels,
    is measured and is exported in place of the model; after n steps it is at most 1 - n^(-2/3).
    0 is off, 0.999 is usual."""

    def __post_init__(self) -> None:
        self._check_views()
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
        self._check_pseudo()
        self._check_exact()

    def _check_exact(self) -> None:
        """`exact_elastic` cuts steps by itself."""
        if self.exact_elastic < 0:
            raise UserError(
                "train.exact_elastic",
                self.exact_elastic,
                "must not be negative",
                "0 switches it off, 12 serves up to twelve ranks of a model",
            )
        if not self.exact_elastic:
            return
        for name, value, usual in (
            ("norm", "local" if self.norm == "frozen" else self.norm, "local"),
            ("accumulation_steps", self.accumulation_steps, 1),
        ):
            if value != usual:
                raise UserError(
                    f"train.{name}",
                    value,
                    "train.exact_elastic cuts each step into shards, which are normalized and take "
                    "memory one by one",
                    f"give {usual}, or train.exact_elastic 0",
                )

    def _check_pseudo(self) -> None:
        if self.pseudo_weight <= 0.0:
            raise UserError(
                "train.pseudo_weight",
                self.pseudo_weight,
                "must be above 0",
                "1 counts an image of R like a labeled one; exchange none learns no R",
            )
        if self.pseudo_ramp_epochs < 0:
            raise UserError(
                "train.pseudo_ramp_epochs",
                self.pseudo_ramp_epochs,
                "must not be negative",
                "0 gives R its full weight from the first epoch on",
            )
        least = self.least_labeled_fraction
        if not 0.0 <= least < 1.0:
            raise UserError(
                "train.least_labeled_fraction",
                least,
                "must be at least 0 and below 1",
                "0.5 makes half of each step labeled images",
            )
        if self.batch_size * (1 - Fraction(str(least))) < 1:
            raise UserError(
                "train.least_labeled_fraction",
                least,
                f"leaves no image of R in a step of {self.batch_size} (train.batch_size)",
                "lower it, or take larger batches",
            )

    def _check_views(self) -> None:
        for name, usual in (("mixup", 0.2), ("cutmix", 1.0)):
            if getattr(self, name) < 0.0:
                raise UserError(
                    f"train.{name}",
                    getattr(self, name),
                    "must not be negative",
                    f"0 switches it off, {usual:g} is usual",
                )
        if not 0.0 <= self.ema_decay < 1.0:
            raise UserError(
                "train.ema_decay",
                self.ema_decay,
                "must be at least 0 and below 1",
                "0 switches it off, 0.999 is usual",
            )


def _warmup_of(given: int | None, usual: int, num_epochs: int) -> int:
    # A short try gives the number of epochs alone: the warm-up follows it.
    return min(usual, max(0, num_epochs - 1)) if given is None else given


def _check_rates(section: str, phase: "PretrainConfig | CotrainConfig") -> None:
    num_epochs, learning_rate = phase.num_epochs, phase.learning_rate
    warmup_epochs, min_rate = phase.num_warmup_epochs, phase.min_learning_rate
    if num_epochs < 0:
        raise UserError(
            f"{section}.num_epochs", num_epochs, "must not be negative", "0 leaves this phase out"
        )
    if learning_rate <= 0.0:
        raise UserError(f"{section}.learning_rate", learning_rate, "must be above 0", "try 0.001")
    limit = phase.num_schedule_epochs
    if warmup_epochs < 0 or 0 < limit <= warmup_epochs:
        name = "num_epochs" if limit == num_epochs else "epochs_per_round"
        raise UserError(
            f"{section}.warmup_epochs",
            warmup_epochs,
            f"must be at least 0 and below {section}.{name}, {limit}",
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
    warmup_epochs: int | None = None
    """Epochs over which the rate rises; null is 2, or all but one of fewer epochs."""
    stop_at_train_accuracy: float | None = None
    """Stop a model early once it fits its labels this well (0..1); measured at each epoch's end."""
    patience_epochs: int | None = None
    """Stop a model early once its accuracy on V has not risen for so many epochs; measured at each
    epoch's end. null trains all epochs."""
    eval_every_epochs: int = 5
    """Measure on T after every so many epochs, and after the last."""
    fit_head: bool = False
    """Fit the last layer to the labels before the first step, on the features of the start, where a
    whole model is trained: for pretrained starts. `train: head` does nothing else."""
    labels: Literal["own", "shared"] = "own"
    """Labeled images of Step 1: each model its own split, or both L_A and L_B, as a baseline."""

    @property
    def num_warmup_epochs(self) -> int:
        """What `warmup_epochs` amounts to."""
        return _warmup_of(self.warmup_epochs, 2, self.num_epochs)

    @property
    def num_schedule_epochs(self) -> int:
        """Epochs over which the rate falls."""
        return self.num_epochs

    def schedule_epochs(self, progress_epochs: float) -> float:
        """Where the schedule stands after so many epochs, counted from 0."""
        return progress_epochs

    def __post_init__(self) -> None:
        _check_rates("pretrain", self)
        # The model's own labels decide, never T: what T decides, it can no longer measure.
        stop = self.stop_at_train_accuracy
        if stop is not None and not 0.0 < stop <= 1.0:
            raise UserError(
                "pretrain.stop_at_train_accuracy",
                stop,
                "must be above 0 and at most 1",
                "0.99 is the paper's; null trains all epochs",
            )
        if self.patience_epochs is not None and self.patience_epochs < 1:
            raise UserError(
                "pretrain.patience_epochs",
                self.patience_epochs,
                "must be at least 1",
                "try 10; null trains all epochs",
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
    warmup_epochs: int | None = None
    """Epochs over which the rate rises; null is 1, or none of a single epoch."""
    # Measured with EfficientNet-B0 on Caltech-101 at 64 pixels, rate 0.001: a fresh optimizer costs
    # 3 to 7 points in the first epochs, and the later ones win them back (docs/results.md).
    optimizer: Literal["fresh", "keep"] = "fresh"
    """Start Step 2 with a new optimizer, or keep the moments of pre-training."""
    epochs_per_round: int | None = 1
    """Epochs that are taught by one exchange, the last ones maybe fewer; null is all of Step 2."""
    restart: Literal["never", "step_one", "start"] = "never"
    """Each round begins from the weights of the end of Step 1, or from the first weights, with a
    new optimizer and the whole schedule: of the rounds before it stays what they have taught."""
    final_epochs: int = 0
    """Epochs after those, a round of their own: both models learn the mean of what both say of all
    of U, so that one model says what the vote of both says."""
    keep_step_one: bool = False
    """Keep the models of Step 1 as models/step_one_a and models/step_one_b; models/best is then the
    better of these, unless V, or for heads without a V folds of L, show at 90 % that the better one
    of the last epoch loses nothing."""

    @property
    def num_warmup_epochs(self) -> int:
        """What `warmup_epochs` amounts to."""
        return _warmup_of(self.warmup_epochs, 1, self.num_schedule_epochs)

    @property
    def num_schedule_epochs(self) -> int:
        """Epochs over which the rate falls: those of Step 2, or of each round that starts anew."""
        if self.restart == "never":
            return self.num_epochs
        return self.round_length

    @property
    def returns_to_step_one(self) -> bool:
        """Whether the models of Step 1 are asked for later."""
        return self.keep_step_one or self.restart == "step_one"

    @property
    def last_epoch(self) -> int:
        """Number of the last epoch, counted from 1; the final ones come after the others."""
        return self.num_epochs + self.final_epochs

    def begins_round(self, epoch: int) -> bool:
        """Whether an epoch, counted from 1, is the first of a round."""
        if epoch > self.num_epochs:
            return epoch == self.num_epochs + 1
        return (epoch - 1) % max(self.round_length, 1) == 0

    def schedule_epochs(self, progress_epochs: float) -> float:
        """Where the schedule stands after so many epochs, counted from 0."""
        if self.final_epochs and progress_epochs >= self.num_epochs:
            stretch = self.num_schedule_epochs / self.final_epochs
            return (progress_epochs - self.num_epochs) * stretch
        if self.restart == "never":
            return progress_epochs
        return progress_epochs % self.round_length

    @property
    def round_length(self) -> int:
        """Epochs of a round."""
        return min(self.epochs_per_round or self.num_epochs, self.num_epochs)

    def __post_init__(self) -> None:
        if self.epochs_per_round is not None and self.epochs_per_round < 1:
            raise UserError(
                "cotrain.epochs_per_round", self.epochs_per_round, "must be at least 1", "try 1"
            )
        if self.final_epochs < 0 or (self.final_epochs and not self.num_epochs):
            raise UserError(
                "cotrain.final_epochs",
                self.final_epochs,
                "must not be negative, and follows other epochs of Step 2",
                "0 leaves them out",
            )
        _check_rates("cotrain", self)


Phase = TypeVar("Phase", PretrainConfig, CotrainConfig)


def scale_rates(phase: Phase, scale: float) -> Phase:
    """A phase with its rates multiplied."""
    # Both rates: the largest alone could fall below the least, which the rules above refuse.
    return replace(
        phase,
        learning_rate=phase.learning_rate * scale,
        min_learning_rate=phase.min_learning_rate * scale,
    )

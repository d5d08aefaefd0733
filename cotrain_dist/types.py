"""What passes between the parts: frozen records without logic."""

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor


class Role(Enum):
    """One of the two models; its value names files and keys."""

    A = "a"
    B = "b"

    @property
    def peer(self) -> "Role":
        """The other role."""
        return Role.B if self is Role.A else Role.A

    @property
    def index(self) -> int:
        """Row of this role in tensors that hold both: A is 0, B is 1."""
        return 0 if self is Role.A else 1


# One fixed order: torch wants every rank to make groups and to call collectives in the same one.
ROLES = (Role.A, Role.B)


@dataclass(frozen=True)
class Votes:
    """What models say about N images of U, in the order of U.

    labels: [..., N] uint16, the top class. uncertainty: [..., N] int16, the code of 1 - confidence
    (`method.scores.encode_uncertainty`): smaller is surer. Leading dimension 2: A, B; or 3, with
    the mean of both.
    """

    labels: Tensor
    uncertainty: Tensor


@dataclass(frozen=True)
class Selection:
    """R_A and R_B as masks over U: a and b are [N] bool; an image may be in both."""

    a: Tensor
    b: Tensor


@dataclass(frozen=True)
class PseudoLabeled:
    """One R: sample_ids [K] int64 in ascending order and labels [K] int64.

    weights: [K] float32, above 0 and at most 1; None where all count as one.
    probs: [K, C] float16, target distributions; None where the labels are the targets.
    """

    # Ids of U alone, as label_selected masks the ids of U: no image of T, V or L can be in an R.
    sample_ids: Tensor
    labels: Tensor
    weights: Tensor | None = None
    probs: Tensor | None = None

    @classmethod
    def empty(cls) -> "PseudoLabeled":
        """An R of no images."""
        return cls(torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64))


@dataclass(frozen=True)
class Exchange:
    """R_A and R_B of one epoch with their pseudo-labels, equal on every rank."""

    a: PseudoLabeled
    b: PseudoLabeled

    @classmethod
    def empty(cls) -> "Exchange":
        """The exchange of an epoch without one."""
        return cls(PseudoLabeled.empty(), PseudoLabeled.empty())

    def selected_by(self, role: Role) -> PseudoLabeled:
        """R_A for role A, R_B for role B."""
        return self.a if role is Role.A else self.b


@dataclass(frozen=True)
class TrainingSet:
    """What a model learns in an epoch, one row per image.

    sample_ids: [N] int64. targets: [N] int64. is_pseudo: [N] bool, whether a model gave the target.
    weights: [N] float32, the factor on each image's loss; None where all count as one, so that the
    loss is summed in the kernel that computes it. soft: [K, C] float16, target distributions of the
    K pseudo-labeled rows, which are the last K rows; None where targets are hard labels. is_strong:
    [N] bool, whether an image is seen in its strong view; None where all are seen in the usual one.
    """

    sample_ids: Tensor
    targets: Tensor
    # Cross entropy does not look at it; a loss or a weight that treats R in another way needs it.
    is_pseudo: Tensor
    weights: Tensor | None = None
    soft: Tensor | None = None
    is_strong: Tensor | None = None

    def __len__(self) -> int:
        return len(self.sample_ids)

    def probs_of(self, rows: Tensor, num_classes: int) -> Tensor:
        """Target distributions of some rows, [n] int64 -> [n, C] float32; each sums to 1.

        1 for the target where it is a hard label. A soft one is divided by its sum, which float16
        has moved from 1 by up to 0.05 %.
        """
        probs = torch.nn.functional.one_hot(self.targets[rows], num_classes).float()
        if self.soft is not None:
            places = rows - (len(self) - len(self.soft))
            is_soft = places >= 0
            soft = self.soft[places[is_soft]].float()
            probs[is_soft] = soft / soft.sum(dim=1, keepdim=True)
        return probs


@dataclass(frozen=True)
class Unlabeled:
    """Images that a student learns together with a batch, and that teachers label on the way.

    strong: [m, 3, S, S] float32, what the student sees. weak: for each teacher what it sees,
    [m, 3, s, s] float32, in its own size and normalization.
    """

    strong: Tensor
    weak: tuple[Tensor, ...]


@dataclass(frozen=True)
class Lesson:
    """What teachers say of the m unlabeled images of a batch.

    probs: [m, C] float32, targets; one-hot where they are hard. is_used: [m] bool, sure enough to
    be learned.
    """

    probs: Tensor
    is_used: Tensor


@dataclass(frozen=True)
class Batch:
    """The rows of a training set that one forward pass learns, on the model's device.

    views: each [n, 3, S, S] float32, normalized; one augmentation of the same n images each.
    targets, is_pseudo and weights: [n], as in TrainingSet. probs: [n, C] float32, target
    distributions; None where targets are hard.
    """

    views: tuple[Tensor, ...]
    targets: Tensor
    is_pseudo: Tensor
    weights: Tensor | None = None
    probs: Tensor | None = None
    unlabeled: Unlabeled | None = None
    """Further images, in epochs with consistency."""
    lesson: Lesson | None = None
    """About `unlabeled`, once the teachers have seen it."""

    @property
    def num_images(self) -> int:
        """With the unlabeled ones."""
        return len(self.targets) + (0 if self.unlabeled is None else len(self.unlabeled.strong))


@dataclass(frozen=True)
class Position:
    """The step that a phase takes next: epochs count from 1, the steps of an epoch from 0."""

    epoch: int = 1
    # Commits are made at epoch ends, so theirs is 0; `train_epoch` can be entered at any step.
    step: int = 0


@dataclass(frozen=True)
class Prediction:
    """What A, B and both together say about one image: label and confidence (0..1) of each."""

    path: str
    label_a: str
    confidence_a: float
    label_b: str
    confidence_b: float
    label: str
    confidence: float


@dataclass(frozen=True)
class PoolLabel(Prediction):
    """What a run says about one image of U."""

    agree: bool
    """Whether A and B name the same class."""
    probability_right: float | None
    """Estimate, 0..1, that `label` is right; None where no labeled images were left to make it."""

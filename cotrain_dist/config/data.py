"""Settings of the images and their splits."""

from dataclasses import dataclass
from typing import Literal, cast

from cotrain_dist.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images come from and how they are cut into the splits T, L_A, L_B, U and V."""

    source: Literal["digits", "imagefolder", "csv", "hub", "torchvision"] = "digits"
    """`digits`: 1,797 handwritten digits, embedded. `imagefolder`: one folder per class in `root`.
    `csv`: a `table` of paths and labels. `hub`: a data set of Hugging Face by `name`, or a folder
    of Parquet files or of `save_to_disk`. `torchvision`: a classification set by `name`."""
    root: str | None = None
    """Folder of `imagefolder`; folder that the paths of a `csv` start from (default: the table's
    own); folder of the files of `torchvision`."""
    name: str | None = None
    """Data set of `hub` or `torchvision`."""
    split: str = "train"
    """Split of `hub` or `torchvision` that is cut into splits."""
    table: str | None = None
    """File of `csv`, with a header; an empty label is an unlabeled image, which goes to U."""
    path_column: str = "path"
    """Column of `table` with paths."""
    image_column: str = "image"
    """Column of `hub` with images."""
    label_column: str = "label"
    """Column of `table` or `hub` with labels."""
    unlabeled: str | None = None
    """Folder of further images without labels, at any depth; all of them go to U."""
    test: str | None = None
    """Folder with one folder per class that is T; the source's own images then give none to T."""
    splits_from: str | None = None
    """A run directory (or its splits.parquet) whose splits are taken over instead of drawn."""
    extra_labels: str | None = None
    """CSV file of further labels, such as `queue` lists images for: its images leave U for L_A and
    L_B in turn."""
    image_size: int | None = None
    """Side in pixels of the square images that the models see; null is what the folder in
    `model_a.pretrained` says, else 64."""
    center_crop_fraction: float = 0.875
    """Fraction of the resized image's side kept by the center crop when measuring and labeling."""
    augment: Literal["auto", "crop_flip", "strong", "off"] = "auto"
    """In training: random resized crop and flip; `strong` also turns, shears, shifts, recolors and
    erases at random; `off` nothing. `auto`: nothing for digits, else crop_flip."""
    crop_min_area: float = 0.35
    """Least fraction of the image's area that a random crop keeps."""
    # The paper's shares: 20 % each for T, L_A and L_B, and the remaining 40 % for U. Where images
    # without labels fill U, every label that a person has given is used.
    test_fraction: float | None = None
    """Fraction of each class that goes to T; 0 draws no T. null is 0 where there are images without
    labels or a folder `test`, else 0.2."""
    test_per_class: int | None = None
    """Images of each class for T, instead of `test_fraction`."""
    # The method wants pre-trained models at about 50 % on T; `calibrate` finds the fraction for it.
    labeled_fraction: float | None = None
    """Fraction of each class that goes to L_A, and as much again to L_B; other labels are hidden.
    null is 0.2, but where there are images without labels all that T and V leave, half each."""
    labeled_per_class: int | None = None
    """Images of each class for L_A, and as many for L_B, instead of `labeled_fraction`."""
    # The paper has no V. Without one, T chooses models/best, and the run says so.
    validation_fraction: float = 0.0
    """Fraction of each class that goes to V, taken from the fraction of U; 0 draws no V."""
    audit_images: int = 0
    """Images of U that are drawn at random before the training, and marked: they are learned like
    all of U, and their true labels are kept for the promise of `labels` alone. `plan` says how many
    a promise needs."""
    on_bad_image: Literal["error", "skip"] = "error"
    """All images are read once before a training. What cannot be used as one ends it: `error`; with
    `skip` the run lists it in bad_images.jsonl and goes on without it, as if it were not there."""
    follow_links: bool = False
    """Whether images, and folders of classes, may be links that lead out of data.root,
    data.unlabeled or data.test; without it such are images that cannot be used."""
    cache: str = "auto"
    """Where decoded and shrunk images are kept on disk, for all ranks, epochs and runs: a folder;
    `auto` is ~/.cache/cotrain_dist/pixels, `off` decodes every image in every pass. Exactness: the
    same pixels with and without."""
    cache_gb: float = 20.0
    """The most that the folder `cache` may hold in all, in GB; images that would be too many are
    decoded in every pass. Nothing is deleted."""
    feature_cache: str | None = None
    """Folder for the features of frozen models (`model_a.train: head`), shared by runs and by all
    nodes; null is ~/.cache/cotrain_dist/features."""
    feature_dtype: Literal["float32", "float16"] = "float32"
    """Exactness: float16 takes half of the disk and rounds features to 11 bits."""
    num_workers: int | None = None
    """Threads per rank that read and decode images ahead of the model. null: none on a CPU, which
    the model needs itself; on a GPU the rank's CPUs but one, at most 8. Exactness: any number gives
    the same images."""

    def __post_init__(self) -> None:
        needed = {"imagefolder": "root", "csv": "table", "hub": "name", "torchvision": "name"}
        key = needed.get(self.source)
        if key is not None and not getattr(self, key):
            raise UserError(
                f"data.{key}",
                "(none)",
                f"data.source {self.source} needs it",
                f"give --data.{key}, see train --help",
            )
        check_image_size("data.image_size", self.image_size)
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
        self._check_cache()
        self._check_fractions()
        if self.num_workers is not None and self.num_workers < 0:
            raise UserError(
                "data.num_workers", self.num_workers, "must not be negative", "0 uses no threads"
            )

    def _check_cache(self) -> None:
        if self.cache_gb <= 0.0:
            raise UserError(
                "data.cache_gb", self.cache_gb, "must be above 0", "--data.cache off keeps nothing"
            )

    def _check_fractions(self) -> None:
        for name, is_whole in (
            ("test_fraction", self.test_fraction == 0.0),
            ("labeled_fraction", False),
        ):
            value = getattr(self, name)
            if value is not None and not is_whole and not 0.0 < value < 1.0:
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
                "0 draws no V",
            )
        if self.audit_images < 0:
            raise UserError(
                "data.audit_images", self.audit_images, "must not be negative", "0 marks none"
            )
        # A T from data.test and numbers of images are no fractions: the draw checks them by class.
        fills_pool = bool(self.unlabeled) or self.source == "csv"
        test = fraction_of_test(self, has_unlabeled=fills_pool)
        labeled = fraction_of_labeled(self, has_unlabeled=fills_pool) or 0.0
        used = self.validation_fraction + sum(
            x for x in (test, 2 * labeled) if isinstance(x, float)
        )
        # With unlabeled images from elsewhere, U needs no fraction of the labeled ones.
        # 1e-9, since sums of decimal fractions miss 1 in their last bits.
        # The tolerance: 0.34 + 0.56 + 2 * 0.05 comes to a little more than 1.
        most = 1.0 + 1e-9 if fills_pool else 1.0 - 1e-9
        if used > most:
            raise UserError(
                "data.labeled_fraction",
                labeled,
                f"T, V, L_A and L_B (twice this) take {used:.2f} of the data and leave none to U",
                "lower the fractions until their sum is below 1",
            )


LARGEST_IMAGE_SIZE = 4096

DEFAULT_FRACTION = 0.2


def check_image_size(key: str, size: int | None) -> None:
    """Raise UserError for a side in pixels that no model is made for."""
    if size is not None and not 8 <= size <= LARGEST_IMAGE_SIZE:
        rule = f"must be 8 to {LARGEST_IMAGE_SIZE} pixels"
        raise UserError(key, size, rule, "try 64 or 224")


def fraction_of_test(config: DataConfig, *, has_unlabeled: bool) -> float | int:
    """What each class gives to T: a fraction, or a number of images; 0 for a T from elsewhere."""
    if config.test:
        return 0
    if config.test_per_class is not None:
        return config.test_per_class
    if config.test_fraction is not None:
        return config.test_fraction
    return 0 if has_unlabeled else DEFAULT_FRACTION


def fraction_of_labeled(config: DataConfig, *, has_unlabeled: bool) -> float | int | None:
    """What each class gives to L_A, and to L_B; None is all that T and V leave, half each."""
    if config.labeled_per_class is not None:
        return config.labeled_per_class
    if config.labeled_fraction is not None:
        return config.labeled_fraction
    return None if has_unlabeled else DEFAULT_FRACTION


def augmentation_of(augment: str, source: str) -> Literal["crop_flip", "strong", "off"]:
    """How training images are augmented; `auto` leaves digits as they are.

    A flipped digit is another digit, or none.
    """
    if augment == "auto":
        return "off" if source == "digits" else "crop_flip"
    return cast(Literal["crop_flip", "strong", "off"], augment)

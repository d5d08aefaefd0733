"""Where images come from: list them once, then read any one of them by its sample_id."""

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from cotrain_dist.config import DataConfig
from cotrain_dist.data.sources import digits, files, hub, torchvision_sets
from cotrain_dist.data.sources.decode import to_rgb, usable_rgb
from cotrain_dist.data.sources.listing import TEST, UNLABELED, Listing, joined

__all__ = ["Listing", "ReadImage", "image_reader", "list_images", "to_rgb"]

ReadImage = Callable[[int], Image.Image | None]
"""sample_id -> RGB image of any size; None for a broken one, where those are skipped."""


def list_images(config: DataConfig) -> Listing:
    """List the configured source, then data.unlabeled and data.test.

    Raises UserError where there is nothing to list.
    """
    match config.source:
        case "digits":
            listing = digits.list_digits()
        case "imagefolder":
            root = Path(config.root or "")
            listing = files.list_class_folders(root, "data.root", follow_links=config.follow_links)
        case "csv":
            listing = files.list_table(config)
        case "hub":
            listing = hub.list_rows(config)
        case "torchvision":
            listing = torchvision_sets.list_samples(config)
    # The source comes first: the number of a row in `hub` has to be its sample_id as well.
    further = []
    if config.unlabeled:
        listed = files.absolute_paths(config, listing)
        folder, follow = Path(config.unlabeled), config.follow_links
        further.append(files.list_unlabeled(folder, listed, follow_links=follow))
    if config.test:
        folder, names = Path(config.test), listing.class_names
        further.append(files.list_test(folder, names, follow_links=config.follow_links))
    return joined(listing, further)


def image_reader(config: DataConfig, listing: Listing) -> ReadImage:
    """A function that reads one image of the listing; nothing is kept of it.

    It raises ImageError for an image that cannot be used. Files must be there with the sizes of
    the listing; raises UserError where they are not.
    """
    folders = files.folders_of(config)
    # On every rank: one node may lack files that the others have.
    files.check_files(folders, listing)
    readers: dict[str, Callable[[str], Image.Image]] = {
        source: files.file_reader(source, folder) for source, folder in folders.items()
    }
    match config.source:
        case "digits":
            readers["digits"] = digits.read_digit
        case "hub":
            readers["hub"] = hub.row_reader(config, listing)
        case "torchvision":
            readers["torchvision"] = torchvision_sets.sample_reader(config, listing)
        case _:
            pass  # sources of files

    def read(sample_id: int) -> Image.Image:
        source, path = listing.sources[sample_id], listing.paths[sample_id]
        key, name = files.place_of(source, path, folders, config)
        return usable_rgb(readers[source](path), key, name)

    assert set(listing.sources) <= {*readers, UNLABELED, TEST}
    return read

"""Make the tutorial's folders: python docs/set_aside.py FOLDER OUT.

FOLDER holds one folder per class. Of five images of a class, two are kept aside in OUT/new/CLASS,
to measure on later. The others go to OUT/images, as one heap: CLASS--FILE is their name, so that
docs/fill_labels.py can stand in for the person who labels them.
"""

import shutil
import sys
from pathlib import Path

MARK = "--"
"""Between class and file."""


def main(root: Path, out: Path) -> None:
    """Copy; images are taken in the order of their names."""
    num_images = num_new = 0
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        for index, file in enumerate(sorted(path for path in folder.iterdir() if path.is_file())):
            is_new = index % 5 < 2
            target = out / "images" / f"{folder.name}{MARK}{file.name}"
            if is_new:
                target = out / "new" / folder.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
            num_new += is_new
            num_images += not is_new
    print(f"{num_images} images in {out / 'images'}, {num_new} kept aside in {out / 'new'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

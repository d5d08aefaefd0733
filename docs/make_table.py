"""Make the tutorial's table: python docs/make_table.py FOLDER OUT [CLASSES] [LABELED] [NEW].

Copies the images of the first CLASSES class folders into OUT/images, names them in OUT/images.csv,
LABELED of each class with their label, and keeps NEW of each class aside in OUT/new/CLASS.
"""

import csv
import shutil
import sys
from pathlib import Path


def main(root: Path, out: Path, num_classes: int, num_labeled: int, num_new: int) -> None:
    """Copy and write; images are taken in the order of their names."""
    folders = sorted(path for path in root.iterdir() if path.is_dir())[:num_classes]
    rows = []
    for folder in folders:
        files = sorted(path for path in folder.iterdir() if path.is_file())
        for index, file in enumerate(files[num_new:]):
            target = out / "images" / f"{folder.name}_{file.name}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
            label = folder.name if index < num_labeled else ""
            rows.append({"path": target.relative_to(out).as_posix(), "label": label})
        for file in files[:num_new]:
            target = out / "new" / folder.name / file.name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    with (out / "images.csv").open("w", newline="") as table:
        writer = csv.DictWriter(table, ["path", "label"])
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} images, {sum(bool(row['label']) for row in rows)} labeled, in {out}")


if __name__ == "__main__":
    folder, out, *numbers = sys.argv[1:]
    chosen = [int(number) for number in numbers] + [10, 20, 5][len(numbers) :]
    main(Path(folder), Path(out), *chosen)

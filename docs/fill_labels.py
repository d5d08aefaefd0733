"""Fill in the labels of a table, as a person would: python docs/fill_labels.py FILE.csv.

For the tutorial: the label is the part of the file's name before `--` (docs/set_aside.py).
"""

import csv
import sys
from pathlib import Path


def main(table: Path) -> None:
    """Write the labels into the column `label`."""
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        rows, columns = list(reader), reader.fieldnames or []
    for row in rows:
        row["label"] = Path(row["path"]).name.partition("--")[0]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
    print(f"{len(rows)} labels of {len({row['label'] for row in rows})} classes in {table}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

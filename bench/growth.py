"""The cost of a larger data set: `python bench/growth.py` trains `compact` on 1, 4 and 16 times the images.

The larger data sets are written to a temporary folder (0.7 GiB). Speed and memory should stay about the same. Writes
bench/results/growth.csv.
"""

import csv
import tempfile
from pathlib import Path

import numpy as np
from run import ARRAYS, HERE, check_data, measure

from mnistflow.core import cli
from mnistflow.data import arrays
from mnistflow.data.arrays import Split

TIMES = (1, 4, 16)
COLUMNS = ("times", "images", "images_per_s", "peak_rss_mib")


def main() -> None:
    """Train on each size, print the figures, write them."""
    check_data()
    training = arrays.load(ARRAYS / "training")
    rows = []
    for times in TIMES:
        with tempfile.TemporaryDirectory() as folder:
            larger = Split(*(np.concatenate([array] * times) for array in training))
            arrays.save(Path(folder, "training"), larger)
            for name in ("validation", "test"):
                arrays.save(Path(folder, name), arrays.load(ARRAYS / name))
            # The first epoch compiles; the second one is measured.
            row = measure("compact", "--arrays", folder, "--epochs", "2")
        rows.append({"times": times, "images": len(larger.labels), **row})
        speed, memory = f"{row['images_per_s']:8,.0f} images/s", f"peak {row['peak_rss_mib']:,.0f} MiB"
        print(f"{times:2}x, {len(larger.labels):9,} images: {speed}, {memory}", flush=True)
    path = HERE / "results/growth.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    print(path)


if __name__ == "__main__":
    cli.run(main)

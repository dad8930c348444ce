"""What a larger data set costs: `python bench/growth.py` trains `compact` on 1, 4 and 16 times the images.

The larger ones are made in a temporary folder (0.7 GiB). Speed should stay and memory should not grow. Writes
bench/results/growth.csv.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from run import ARRAYS, HERE, check_data, measure, write_csv

from mnistflow.core import cli
from mnistflow.data import arrays
from mnistflow.data.arrays import Split

TIMES = (1, 4, 16)
COLUMNS = ("times", "images", "images_per_s", "peak_rss_mib")


def main() -> None:
    """Make, train, print, write."""
    check_data()
    training = arrays.load(ARRAYS / "training")
    rows = []
    for times in TIMES:
        with tempfile.TemporaryDirectory() as folder:
            larger = Split(*(np.concatenate([array] * times) for array in training))
            arrays.save(Path(folder, "training"), larger)
            for name in ("validation", "test"):
                arrays.save(Path(folder, name), arrays.load(ARRAYS / name))
            # The first epoch compiles; the second is what is measured.
            row = measure("compact", "--arrays", folder, "--set", "epochs=2")
        rows.append({"times": times, "images": len(larger.labels), **row})
        print(
            f"{times:2}x, {len(larger.labels):9,} images: {row['images_per_s']:8,.0f} images/s, "
            f"peak {row['peak_rss_mib']:,.0f} MiB",
            file=sys.stderr,
            flush=True,
        )
    path = HERE / "results/growth.csv"
    write_csv(path, COLUMNS, rows)
    print(path)


if __name__ == "__main__":
    cli.run(main)

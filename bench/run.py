"""Compare the book's two scripts with our models: `python bench/run.py [--quick] [--add MODEL]`.

Each case is a process of its own: imports, a full training, the test of its best epoch, but no record and no figures.
All cases run in turn, three times over: an hour. With --quick, each trains four epochs on 12,000 images: five minutes.
With --add MODEL, another model of params.yaml is measured, once, and added to the file, until the next measurement.
Prints medians with the smallest and the largest value, ratios of medians to the book's script, and training's share of
the processor's measured peak; writes all values to bench/results/full.json or quick.json.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnistflow.core import cli, params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import read_json, write_text
from mnistflow.data import arrays

HERE = Path(__file__).parent
ARRAYS = arrays.DATA
CASES = ("book-dense", "dense", "book-cnn", "cnn", "compact")
BOOK = {"dense": "book-dense", "cnn": "book-cnn", "compact": "book-cnn"}
ROUNDS = 3
QUICK = ("--images", "12000", "--epochs", "4")
COLUMNS = {  # the figures of measure.py: heading, format
    "first_batch_s": ("first batch", "{:.1f} s"),
    "epoch_s": ("an epoch", "{:.2f} s"),
    "images_per_s": ("images/s", "{:,.0f}"),
    "epochs": ("epochs", "{:.0f}"),
    "checkpoint_s": ("to the kept checkpoint", "{:.1f} s"),
    "process_s": ("whole process", "{:.1f} s"),
    "accuracy": ("test accuracy", "{:.2%}"),
    "peak_rss_mib": ("peak RSS", "{:,.0f} MiB"),
}
QUICK_COLUMNS = ("first_batch_s", "epoch_s", "images_per_s", "peak_rss_mib")
LOWER_IS_BETTER = ("first_batch_s", "epoch_s", "checkpoint_s", "process_s", "peak_rss_mib")


def measure(case: str, *options: str) -> dict[str, float]:
    """Run one case in a process of its own; `options` as measure.py takes them."""
    command = [sys.executable, str(HERE / "measure.py"), case, *options]
    environment = os.environ | {"STARTED": str(time.time()), "TF_CPP_MIN_LOG_LEVEL": "2"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def project_environment(**variables: str) -> dict[str, str]:
    """The environment for commands in a copy of the project, with further variables."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # dvc.yaml says `python`
    return os.environ | {"PYTHONPATH": "src", "PATH": path} | variables


def machine() -> dict[str, str]:
    """The machine and the versions on which the figures depend."""
    from mnistflow.tracking.flavor import installed
    from mnistflow.tracking.provenance import processor

    return {
        "processor": processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "python": platform.python_version(),
        "versions": ", ".join(installed("tensorflow-cpu", "tensorflow", "keras")),
    }


def peak_gflops() -> float:
    """Billions of float32 operations a second in a product of two 4096x4096 matrices, the best of ten."""
    from mnistflow.training.backend import keras

    matrix = keras.random.normal((4096, 4096))
    seconds = []
    for _ in range(10):
        started = time.perf_counter()
        keras.ops.convert_to_numpy(keras.ops.matmul(matrix, matrix)[0, 0])
        seconds.append(time.perf_counter() - started)
    return float(2 * 4096**3 / min(seconds) / 1e9)


def multiply_adds(name: str) -> list[int]:
    """Multiply-adds of one image's way forward through each convolution and dense layer of a model."""
    from mnistflow.training.backend import network

    model = network(params.load().models[name].network).build((28, 28), 10)
    weighted = [layer for layer in model.layers if hasattr(layer, "kernel")]
    return [math.prod(layer.output.shape[1:-1]) * math.prod(layer.kernel.shape) for layer in weighted]


def roofline(rows: Mapping[str, Mapping[str, float]], peak: float) -> dict[str, Any]:
    """Training's GFLOP/s by case, and its share of the processor's peak."""
    results: dict[str, Any] = {"sgemm_gflops": peak}
    for case, row in rows.items():
        adds = multiply_adds(case.removeprefix("book-"))
        # The backward pass costs as much for the gradients of the weights, and again for those of the inputs. The
        # first layer's inputs are pixels, which need no gradients.
        reached = 2 * (3 * sum(adds) - adds[0]) * row["images_per_s"] / 1e9
        results[case] = {"multiply_adds": sum(adds), "gflops": reached, "share_of_peak": reached / peak}
    return results


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of each figure over several runs."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def table(measured: Mapping[str, Sequence[Mapping[str, float]]], columns: Sequence[str]) -> list[list[str]]:
    """A row per case: each figure's median, smallest and largest value, and the ratio to the book's script."""
    rows = {case: medians(runs) for case, runs in measured.items()}
    lines = [["", *(COLUMNS[column][0] for column in columns)]]
    for case, runs in measured.items():
        cells = []
        for column in columns:
            show, values = COLUMNS[column][1].format, [run[column] for run in runs]
            text = show(rows[case][column])
            if min(values) < max(values):
                text += f" [{show(min(values))} to {show(max(values))}]"
            if case in BOOK and column in (*LOWER_IS_BETTER, "images_per_s"):
                text += f" ({rows[case][column] / rows[BOOK[case]][column]:.2f}x)"
            cells.append(text)
        lines.append([case, *cells])
    return lines


def check_data() -> None:
    """Check that the arrays are those of MNIST.

    Raises:
        WorkflowError: they are missing, or of another data set.
    """
    arrays.load(ARRAYS / "training")
    if (dataset := params.load().fetch.dataset) != "mnist":
        raise WorkflowError(f"fetch.dataset is {dataset}; the bench is about mnist: set it, and run `make repro`.")


def title(about: Mapping[str, str]) -> str:
    """A machine, as `machine` gives it, in a line."""
    return f"{about['processor']}, {about['cores']} cores, Python {about['python']}, {about['versions']}"


def measured_before(path: Path, added: str) -> dict[str, Any]:
    """The content of a file of figures, to which those of the model `added` can be added.

    Raises:
        WorkflowError: params.yaml has no such model, it is one of the cases, or the file is of another machine.
    """
    if added in CASES or added not in params.load().models:
        raise WorkflowError(f"--add {added}: another model of params.yaml than {', '.join(CASES)} is expected.")
    before: dict[str, Any] = read_json(path)
    if before["machine"] != (here := machine()):
        raise WorkflowError(f"{path} is of {title(before['machine'])}; this is {title(here)}: run `make bench` first.")
    return before


def main(mode: str, added: str) -> None:
    """Measure the cases, print the table, write the figures.

    Args:
        mode: quick or full.
        added: another model of params.yaml, to be measured alone; empty for the cases.
    """
    check_data()
    path = HERE / f"results/{mode}.json"
    before = measured_before(path, added) if added else {"cases": {}, "roofline": {}}
    cases, rounds = ((added,), 1) if added else (CASES, ROUNDS)
    measured: dict[str, list[dict[str, float]]] = {case: [] for case in cases}
    for turn in range(rounds):
        for case in cases:
            print(f"round {turn + 1}: {case} ...", file=sys.stderr, flush=True)
            measured[case].append(measure(case, *(QUICK if mode == "quick" else [])))
    peak = before["roofline"].get("sgemm_gflops") or peak_gflops()
    reached = before["roofline"] | roofline({case: medians(runs) for case, runs in measured.items()}, peak)
    measured = before["cases"] | measured
    about = machine()
    lines = table(measured, QUICK_COLUMNS if mode == "quick" else [*COLUMNS])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    print(title(about))
    for line in lines:
        print("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)))
    print(f"SGEMM peak {reached['sgemm_gflops']:.0f} GFLOP/s; share of it in training: ", end="")
    print(", ".join(f"{case} {reached[case]['share_of_peak']:.0%}" for case in measured))
    write_text(path, json.dumps({"machine": about, "cases": measured, "roofline": reached}, indent=2) + "\n")
    print(path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four epochs on 12,000 images")
    parser.add_argument("--add", default="", metavar="MODEL", help="measure another model of params.yaml, once")
    options = parser.parse_args()
    cli.run(main, "quick" if options.quick else "full", options.add)

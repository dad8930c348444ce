"""Let one model classify the test set: the only stage that opens it."""

import time
from pathlib import Path

from mnistflow import cli, evaluation, models, params, record, splits
from mnistflow.datasets import DATASETS
from mnistflow.workspace import check_vouched, md5, read_json, settle, write_json


def main(trained: Path, test_set: Path, evaluated: Path, metrics: Path) -> None:
    classes = DATASETS[params.load().fetch.dataset].classes
    details = read_json(trained / "training.json")
    check_vouched(trained / "model.keras")
    settle()
    model = models.load(trained / "model.keras")
    test = splits.load(test_set)

    model.predict(test.images[:1000], batch_size=1000, verbose=0)  # compiles; not to be timed
    started = time.perf_counter()
    probabilities = model.predict(test.images, batch_size=1000, verbose=0)
    milliseconds = 1000 * (time.perf_counter() - started) / len(test.labels)

    about = {"model": details["model"], "model_md5": md5(trained / "model.keras"), "classes": classes}
    evaluation.write(evaluated, test.images, test.labels, probabilities, about)
    # No times in here: the same inputs give the same bytes.
    values = {
        **evaluation.headline(probabilities, test.labels),
        "parameters": details["parameters"],
        "best_epoch": details["best_epoch"],
        "selected_on": details["selected_on"],
    }
    write_json(metrics, values)
    print(
        f"{details['model']}: {values['accuracy']:.2%} of {len(test.labels):,} test images right "
        f"(95% interval {values['accuracy_low']:.2%} to {values['accuracy_high']:.2%}), {values['errors']} wrong, "
        f"{milliseconds:.3f} ms an image; checkpoint selected on the {details['selected_on']} images"
    )
    record.evaluation(trained, evaluated, metrics, test, {"milliseconds_per_image": milliseconds})


if __name__ == "__main__":
    cli.run(main)

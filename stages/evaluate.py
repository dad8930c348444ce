"""Measure one model on the test images, as they are and corrupted: `python stages/evaluate.py MODEL`."""

import json
import time
from functools import partial

from mnistflow.core import cli, files
from mnistflow.data import arrays
from mnistflow.evaluation import metrics, occlusion, predictions, robustness


def main(name: str) -> None:
    # Here, because TensorFlow and MLflow take seconds to import, in which Ctrl-C should end in one sentence too.
    from mnistflow.tracking import runs, store
    from mnistflow.training import archive, backend, state

    dataset, model_file = arrays.describe(), files.MODELS / name / "model.keras"
    files.check_locked(model_file)
    state.delete_finished()  # here, because an experiment's dvc.lock is in the copy in which it runs
    details = files.read_json(files.MODELS / name / "training.json")
    model = archive.load(model_file)
    test = arrays.load(arrays.DATA / "test")

    predict = partial(backend.probabilities, model)
    predict(test.images[:1000])  # compiles; not to be timed
    started = time.perf_counter()
    probabilities = predict(test.images)
    milliseconds = 1000 * (time.perf_counter() - started) / len(test.labels)

    scores = robustness.measure(predict, test)
    # No times among the metrics: the same inputs give the same bytes.
    facts = {key: details[key] for key in ("parameters", "best_epoch", "selected_on")}
    values = metrics.headline(probabilities, test.labels) | {"robustness": scores.mean} | facts
    report = {
        "model": name,
        "model_md5": files.md5(model_file),
        "test_sha256": arrays.sha256(arrays.DATA / "test"),
        "classes": dataset.classes,
        "metrics": values,
    }
    predictions.write(files.EVALUATION / name, test, probabilities, report)
    occlusion.write(files.EVALUATION / name, predict)
    robustness.write(name, scores)
    (files.METRICS / f"{name}.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    print(
        f"{name}: {values['accuracy']:.2%} of {len(test.labels):,} test images right (95% interval "
        f"{values['accuracy_low']:.2%} to {values['accuracy_high']:.2%}), {values['errors']} wrong, "
        f"{milliseconds:.3f} ms an image; best epoch chosen on the {details['selected_on']} images"
    )
    print(f"{name}: {scores}")
    try:
        store.connect()
        runs.log_evaluation(name, {"milliseconds_per_image": milliseconds})
    except store.TrackingError as error:
        print(f"not recorded: {error}; `make record` completes the record", flush=True)


if __name__ == "__main__":
    cli.run(main)

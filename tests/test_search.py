"""sweep.yaml's checks, and what a search does with its trials; Ray's part is in tests/cluster."""

import copy
import csv
import json
from pathlib import Path
from typing import Any

import mlflow
import pytest
from conftest import HERE, runs, steps
from ruamel.yaml import YAML

from mnistflow.core import params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.params import Settings
from mnistflow.data import arrays
from mnistflow.data.arrays import Split
from mnistflow.search import plans, seeds, space, sweep, trials
from mnistflow.search.plans import Plan, Trial
from mnistflow.search.space import Halving

VALUES = YAML(typ="safe", pure=True).load(HERE / "sweep.yaml")
ABSENT = object()


@pytest.fixture(scope="module")
def settings() -> Settings:
    return params.load(HERE / "params.yaml")


def load(folder: Path, settings: Settings, **changes: Any) -> space.Sweep:
    """sweep.yaml with some values changed, added or removed; space__shift__low sets space.shift.low."""
    values = copy.deepcopy(VALUES)
    for path, value in changes.items():
        *sections, last = path.split("__")
        section = values
        for key in sections:
            section = section[key]
        section[last] = value
        if value is ABSENT:
            del section[last]
    YAML(typ="safe").dump(values, folder / "sweep.yaml")
    return space.load(folder / "sweep.yaml", settings)


def test_the_file_is_valid_and_its_space_has_the_present_settings(settings: Settings) -> None:
    search = space.load(HERE / "sweep.yaml", settings)
    present = settings.models[search.model]
    assert search.present(present) == {key: getattr(present, key) for key in search.space}
    assert search.present(present.model_copy(update={"shift": 3})) is None
    assert search.present(present.model_copy(update={"batch_size": 300})) is None


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"space__learning_rat": {"low": 0.1, "high": 0.2}}, ["learning_rat", "did you mean learning_rate?"]),
        ({"space__learning_rate__high": 2}, ["space: learning_rate is 2", "at most 1"]),
        ({"space__learning_rate__low": 0.02}, ["space.learning_rate", "low is 0.02", "low below high"]),
        ({"space__learning_rate__low": ABSENT}, ["space.learning_rate", "low is None"]),
        ({"space__learning_rate__lo": 1}, ["space.learning_rate.lo", "did you mean low?"]),
        ({"space__shift__log": True}, ["space.shift", "low is 0", "above 0"]),
        ({"space__shift__high": 1.5}, ["space: shift is 1.5", "a whole number"]),
        ({"space__shift__values": [1, 2]}, ["space.shift", "either values, or low and high"]),
        ({"space__shift": {}}, ["space.shift", "give values"]),
        ({"space__batch_size__values": [100]}, ["space.batch_size.values", "at least 2"]),
        ({"space__batch_size__values": [100, 100]}, ["space.batch_size", "a value is there twice"]),
        ({"space__batch_size__values": [0, 100]}, ["space: batch_size is 0", "at least 1"]),
        ({"space__optimizer": {"low": 0, "high": 1}}, ["space: optimizer", "'adam', 'adamw' or 'nadam'"]),
        ({"space__seed": {"values": [1, 2]}}, ["space: seed can't be searched"]),
        ({"space__network": {"values": ["cnn", "dense"]}}, ["space: network can't be searched"]),
        ({"space__smoothing": {"values": [0.0, 0.1]}}, ["space.smoothing", "use val_accuracy"]),
        ({"space__epochs": {"low": 2, "high": 4}}, ["space.epochs and early_stopping"]),
        ({"space": {}}, ["space is empty"]),
        ({"space": ABSENT}, ["space is missing"]),
        ({"early_stopping__epochs": 4}, ["early_stopping.epochs is 4", "has only 4"]),
        ({"early_stopping__reduction": 1}, ["early_stopping.reduction is 1", "more than 1"]),
        ({"objective": "test_accuracy"}, ["objective is 'test_accuracy'", "'val_loss' or 'val_accuracy'"]),
        ({"model": "compakt"}, ["model is 'compakt'", "did you mean compact?"]),
        ({"trials": 0}, ["trials is 0", "at least 1"]),
        ({"trial": 3}, ["unknown key trial", "did you mean trials?"]),
        ({"resources__cpu": 3}, ["resources.cpu", "did you mean cpus?"]),
    ],
)
def test_a_mistake_gets_a_sentence(
    tmp_path: Path, settings: Settings, changes: dict[str, Any], parts: list[str]
) -> None:
    with pytest.raises(WorkflowError) as raised:
        load(tmp_path, settings, **changes)
    sentence = str(raised.value).splitlines()[0]
    assert sentence.startswith(f"{tmp_path}/sweep.yaml")
    for part in parts:
        assert part in sentence


def test_a_setting_may_be_searched_with_another_that_it_needs(tmp_path: Path, settings: Settings) -> None:
    schedule: dict[str, Any] = {"model": "dense", "space": {"schedule": {"values": ["constant", "one_cycle"]}}}
    with pytest.raises(WorkflowError, match="schedule one_cycle needs warmup and final"):
        load(tmp_path, settings, **schedule)
    schedule["space"] |= {"warmup": {"low": 0.1, "high": 0.4}, "final": {"values": [0.01, 0.1]}}
    assert load(tmp_path, settings, **schedule).space["warmup"].limits() == [0.1, 0.4]


def test_a_search_on_the_test_set_is_refused(settings: Settings) -> None:
    book = settings.model_copy(update={"split": settings.split.model_copy(update={"validation": "test"})})
    with pytest.raises(WorkflowError, match="a search would choose on the test set"):
        space.load(HERE / "sweep.yaml", book)


@pytest.mark.parametrize("content", ["a: [1", "- 1", "", None])
def test_a_file_that_holds_no_search_gets_a_sentence(tmp_path: Path, settings: Settings, content: str | None) -> None:
    if content is not None:
        (tmp_path / "sweep.yaml").write_text(content)
    with pytest.raises(WorkflowError, match=r"sweep\.yaml"):
        space.load(tmp_path / "sweep.yaml", settings)


@pytest.fixture
def plan(tmp_path: Path, tiny: tuple[Split, Split], settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan for `dense` on tiny data, 4 epochs a training."""
    monkeypatch.chdir(tmp_path)
    # Absolute: MLflow holds on to the store of an address for as long as the process lives.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for part, split in zip(("training", "validation"), tiny, strict=True):
        arrays.save(arrays.DATA / part, split)
    description = arrays.Description("tiny", (28, 28), list("0123456789"), 100, None)
    arrays.DESCRIPTION.write_text(json.dumps(description._asdict()))
    dense = settings.models["dense"].model_copy(update={"epochs": 4, "batch_size": 50})
    details = {
        "model": "dense",
        "settings": dense.model_dump(exclude_none=True),
        "dataset": "tiny",
        "validation": 100,
        "selected_on": "validation",
        "training_images": 300,
        "training_sha256": "0" * 64,
    }
    folder = tmp_path / ".cache/training/plan"
    return Plan("plan", tmp_path, folder, dense, details, "val_loss", 1, None, "parent")


def train(plan: Plan, number: int = 1, **settings: Any) -> Trial:
    """Train a trial of the plan, as a worker would."""
    if not [trial for trial in plans.read(plan) if trial.number == number]:
        Trial(number, settings).write(plan)
    trials.train(plan, number)
    return plans.read(plan)[number - 1]


def changed(plan: Plan, **values: Any) -> Plan:
    return Plan(**{**vars(plan), **values})


def children(plan: Plan) -> list[Any]:
    return runs(mlflow.MlflowClient(f"sqlite:///{plan.project}/mlflow.db"))


def test_a_trial_is_the_mean_of_its_seeds(plan: Plan) -> None:
    trial = train(changed(plan, seeds=2))
    first, second = sorted(children(plan), key=lambda run: run.data.params["seed"])
    assert [first.data.params["seed"], second.data.params["seed"]] == ["1", "2"]
    assert trial.status == "finished"
    assert len(trial.values) == 8
    assert trial.values[3] == pytest.approx(first.data.metrics["best_val_loss"])
    assert trial.values[7] == pytest.approx((trial.values[3] + second.data.metrics["best_val_loss"]) / 2)


def test_an_interrupted_trial_goes_on_in_its_run_and_ends_as_if_undisturbed(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = train(changed(plan, name="other", folder=plan.folder.with_name("other")))
    (other,) = children(plan)
    log_epochs = trials.runs.LiveRun.log_epochs

    def crash(run: Any, rows: Any, seconds: float) -> None:
        if len(rows) == 2:
            raise KeyboardInterrupt
        log_epochs(run, rows, seconds)

    with monkeypatch.context() as patch:
        patch.setattr(trials.runs.LiveRun, "log_epochs", crash)
        with pytest.raises(KeyboardInterrupt):
            train(plan)
    assert plans.read(plan)[0].status == "running"
    assert train(plan).values == undisturbed.values
    (run,) = [run for run in children(plan) if run.info.run_id != other.info.run_id]
    assert run.info.status == "FINISHED"
    assert steps(mlflow.MlflowClient(f"sqlite:///{plan.project}/mlflow.db"), run) == [1, 2, 3, 4]


def test_a_trial_that_falls_behind_is_stopped_and_its_run_is_finished(plan: Plan) -> None:
    plan = changed(plan, halving=Halving(epochs=2, reduction=2))
    assert train(plan).status == "finished"
    trial = train(plan, 2, learning_rate=1e-6)
    assert (trial.status, len(trial.values)) == ("stopped", 2)
    assert {run.info.status for run in children(plan)} == {"FINISHED"}


def test_a_trial_that_diverges_counts_as_no_better_than_guessing(plan: Plan) -> None:
    trial = train(plan, learning_rate=1e30)
    assert trial.status == "diverged"
    assert trial.values[-1] == pytest.approx(2.302585)
    assert "its loss is" in (trial.failure or "")
    assert children(plan)[0].info.status == "FAILED"
    assert plans.best(plan, [trial]) is None


def test_a_trial_needs_no_store_and_the_end_names_what_the_record_lacks(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{plan.project}/missing/folder/mlflow.db")
    (plan.project / "missing").touch()
    assert train(plan).status == "finished"
    plans.finish(plan, "text", {}, [])
    output = capsys.readouterr().out
    assert "the training goes on" in output
    assert "did not answer while trial 1 ran" in output
    assert "the same command completes the record" in output


def test_halving_keeps_the_best_half_rounded_up(plan: Plan) -> None:
    plan = changed(plan, halving=Halving(epochs=1, reduction=2))
    others = [Trial(number, {}, values=[loss] * 2) for number, loss in enumerate((0.1, 0.2, 0.4), start=1)]

    def behind(*values: float) -> bool:
        trial = Trial(4, {}, values=list(values))
        return trials.is_behind(plan, trial, [*others, trial], epochs=4)

    assert not behind(0.2)
    assert behind(0.3)
    assert behind(0.1, 0.3)
    assert not behind(0.1, 0.3, 0.3)  # 3 is not 1, 2, 4
    assert not behind(0.1, 0.3, 0.3, 0.3)  # its last
    assert not trials.is_behind(plan, Trial(1, {}, values=[9.0]), [Trial(1, {}, values=[9.0])], epochs=4)


def test_the_same_trials_give_the_same_suggestion_inside_the_space(settings: Settings) -> None:
    pytest.importorskip("optuna", reason="searches ask Optuna: make cluster")
    search = space.load(HERE / "sweep.yaml", settings)
    present = settings.models[search.model]
    done: list[Trial] = []
    for status in ("finished", "stopped", "diverged", "failed", "running", "finished", "finished"):
        suggestion = sweep.suggest(search, present, done)
        assert suggestion == sweep.suggest(search, present, done)
        assert all(search.space[key].contains(value) for key, value in suggestion.items())
        assert float(f"{suggestion['learning_rate']:.3g}") == suggestion["learning_rate"]
        done.append(Trial(len(done) + 1, suggestion, status, [2.0, 1.0] if status != "failed" else []))
    assert done[0].settings == search.present(present)
    assert len({json.dumps(trial.settings) for trial in done}) == len(done)


def test_results_are_a_table_and_a_figure(plan: Plan, settings: Settings, tmp_path: Path) -> None:
    search = space.load(HERE / "sweep.yaml", settings)
    own = {"learning_rate": 0.006, "batch_size": 200, "shift": 1}
    done = [
        Trial(1, own, "finished", [0.5, 0.3]),
        Trial(2, own | {"batch_size": 100}, "stopped", [0.7], interruptions=1),
        Trial(3, own | {"shift": 2}, "diverged", [2.3], failure="its loss is nan"),
        Trial(4, own, "failed", failure="ValueError: a bug"),
    ]
    sweep.write(tmp_path / "trials.csv", search, done)
    with (tmp_path / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["val_loss"] for row in rows] == ["0.3", "0.7", "2.3", ""]
    assert rows[1]["interruptions"] == "1"
    figure = sweep.draw(search, plan, done)
    assert [ax.get_xlabel() for ax in figure.axes] == ["trial", *search.space]
    assert plans.failures(done) == ["trial 3 diverged: its loss is nan", "trial 4 failed: ValueError: a bug"]


def test_options_reproduce_a_trial_also_where_params_yaml_leaves_a_setting_out(plan: Plan) -> None:
    options = plan.options({"learning_rate": 0.01, "rotate": 10})
    assert options == "-S models.dense.learning_rate=0.01 -S ++models.dense.rotate=10"


def test_a_study_of_seeds_is_a_row_and_a_figure(tmp_path: Path) -> None:
    rows = [{"seed": seed, "accuracy": accuracy, "epochs": 2} for seed, accuracy in enumerate((0.98, 0.99), start=1)]
    seeds.write(tmp_path / "seeds-x.csv", rows)
    assert seeds.read(tmp_path / "seeds-x.csv") == rows
    assert seeds.summary(rows) == "| 2 | 98.50% | 0.71 | 92.15 to 104.85% | 98.00% |"
    assert [label.get_text() for label in seeds.draw({"x": rows}, "here").axes[0].get_yticklabels()] == ["x"]

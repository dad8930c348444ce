"""sweep.yaml -> validated, frozen settings of a search, checked against params.yaml too."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from mnistflow.core import params
from mnistflow.core.errors import WorkflowError
from mnistflow.core.params import ModelSettings, Section, Seed, Settings, nearest


class Range(Section):
    """The search space of one setting: one of `values`, or a number from `low` to `high`, both included."""

    values: Annotated[list[Any], Field(min_length=2, max_length=100)] | None = None
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False  # sample the logarithm: 0.001 to 0.01 is as likely as 0.01 to 0.1

    @model_validator(mode="after")
    def _is_complete(self) -> "Range":
        if self.values is not None:
            if self.low is not None or self.high is not None or self.log:
                raise ValueError("give either values, or low and high")
            if any(value in self.values[:index] for index, value in enumerate(self.values)):
                raise ValueError("a value is there twice")
        elif self.low is None or self.high is None or self.low >= self.high:
            raise ValueError(f"low is {self.low} and high is {self.high}; give both, low below high, or give values")
        elif self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}; above 0 is allowed where log is true")
        return self

    def limits(self) -> list[Any]:
        """Low and high, or all values: if params.yaml allows these, it allows the whole range."""
        return [self.low, self.high] if self.values is None else self.values

    def contains(self, value: Any) -> bool:
        """Whether the range has this value."""
        if self.low is None or self.high is None:
            return value in (self.values or [])
        return isinstance(value, int | float) and self.low <= value <= self.high


class Halving(Section):
    """Early stopping by asynchronous successive halving: Li et al. (2018), arXiv:1810.05934."""

    epochs: Annotated[int, Field(ge=1)]  # of the first rung; each further rung has `reduction` times as many
    reduction: Annotated[float, Field(gt=1, le=100)]  # the best 1/reduction of the trials at a rung go on


class Resources(Section):
    """Resources of a trial."""

    cpus: Annotated[int, Field(ge=1)] = 1  # cores, and threads of the training
    gpus: Annotated[float, Field(ge=0)] = 0.0  # 0.5: two trials share one


class Sweep(Section):
    """All of sweep.yaml."""

    model: str  # a section of models in params.yaml
    objective: Literal["val_loss", "val_accuracy"]  # of the best epoch
    trials: Annotated[int, Field(ge=1, le=10_000)]
    seeds: Annotated[int, Field(ge=1, le=100)] = 1  # trainings per trial; the objective is their mean
    seed: Seed  # of the search
    space: Annotated[dict[str, Range], Field(min_length=1)]  # by the model's key in params.yaml
    early_stopping: Halving | None = None
    resources: Resources = Resources()
    retries: Annotated[int, Field(ge=0, le=100)] = 2  # of a trial that was lost or failed

    def present(self, settings: ModelSettings) -> dict[str, Any] | None:
        """The searched settings' values in params.yaml; None where one is outside of the search space."""
        values = {key: getattr(settings, key) for key in self.space}
        return values if all(self.space[key].contains(value) for key, value in values.items()) else None


def load(path: Path, settings: Settings) -> Sweep:
    """The search that a file describes, for the models in `settings`.

    Raises:
        WorkflowError: the file is missing or not YAML, or a value is not allowed; a sentence for each, with its key.
    """
    sweep = params.parse(Sweep, params.read_yaml(path), str(path))
    problems = list(dict.fromkeys(_problems(sweep, settings, str(path))))
    if problems:
        raise WorkflowError("\n       ".join(problems))
    return sweep


def is_whole(key: str) -> bool:
    """Whether a setting of a model is a whole number."""
    schema = ModelSettings.model_json_schema()["properties"][key]
    return any(branch.get("type") == "integer" for branch in [schema, *schema.get("anyOf", [])])


def _problems(sweep: Sweep, settings: Settings, source: str) -> Iterator[str]:
    """A sentence for each conflict with params.yaml."""
    if settings.split.validation == "test":
        yield "params.yaml: split.validation is test: a search would choose on the test set; give a number of images."
    if sweep.model not in settings.models:
        advice = nearest(sweep.model, settings.models)
        yield f"{source}: model is {sweep.model!r}, which is no section of models in params.yaml;{advice}."
        return
    model = settings.models[sweep.model]
    for key in sweep.space:
        if key in ("network", "seed"):
            yield f"{source}, space: {key} can't be searched; choose the network by `model`, several seeds by `seeds`."
        else:
            yield from _range_problems(sweep, key, model, source)
    if "smoothing" in sweep.space and sweep.objective == "val_loss":
        yield (
            f"{source}: space.smoothing and the objective val_loss: losses of labels that are smoothed by different "
            "shares can't be compared; use val_accuracy."
        )
    if sweep.early_stopping:
        if "epochs" in sweep.space:
            yield (
                f"{source}: space.epochs and early_stopping: trials of different lengths can't be compared on the way; "
                "remove one of the two."
            )
        elif sweep.early_stopping.epochs >= model.epochs * sweep.seeds:
            yield (
                f"{source}: early_stopping.epochs is {sweep.early_stopping.epochs}, but a trial has only "
                f"{model.epochs * sweep.seeds}; lower it, or remove early_stopping."
            )


def _range_problems(sweep: Sweep, key: str, model: ModelSettings, source: str) -> Iterator[str]:
    """A sentence for each limit of a range that params.yaml would not allow."""
    values = model.model_dump(exclude_none=True)
    # A setting that is searched too may be what another one needs, as `warmup` is for one_cycle.
    others = {name: each.limits()[0] for name, each in sweep.space.items() if getattr(model, name, "") is None}
    for value in sweep.space[key].limits():
        try:
            params.parse(ModelSettings, {**values, **others, key: value}, f"{source}, space")
        except WorkflowError as error:
            yield str(error)

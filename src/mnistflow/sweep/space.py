"""sweep.yaml -> a validated, frozen description of a search for better settings.

It is checked as a whole before anything runs, and against params.yaml: what is searched are that model's own settings.
"""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mnistflow import params
from mnistflow.params import ModelName, ModelParams, Params, Seed
from mnistflow.workspace import WorkflowError


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Range(_Part):
    """What one setting may be: one of `values`, or a number from `low` to `high`, both included."""

    values: list[Any] | None = Field(None, min_length=2, max_length=100)
    low: float | None = None
    high: float | None = None
    log: bool = False  # whether 0.001 to 0.01 is as wide as 0.01 to 0.1

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> "Range":
        if (self.values is None) == (self.low is None and self.high is None and not self.log):
            raise ValueError("give either values, or low and high")
        if self.values is None:
            if self.low is None or self.high is None or not self.low < self.high:
                raise ValueError(f"low is {self.low}, high is {self.high}; low must be there and below high")
            if self.log and self.low <= 0:
                raise ValueError(f"low is {self.low}; above 0 is expected where log is true")
        elif any(value in self.values[:place] for place, value in enumerate(self.values)):
            raise ValueError("a value is there twice")
        return self

    def ends(self, key: str) -> list[Any]:
        """The values that have to be allowed for all to be: as whole numbers where the setting `key` is one."""
        if self.values is not None:
            return self.values
        whole = ModelParams.model_fields[key].annotation is int
        return [int(end) if whole and end == int(end) else end for end in (self.low, self.high) if end is not None]

    def holds(self, value: Any) -> bool:
        """Whether `value` is in it."""
        if self.low is None or self.high is None:
            return value in (self.values or [])
        return isinstance(value, int | float) and self.low <= value <= self.high


class EarlyStopping(_Part):
    """When a trial is given up: asynchronous successive halving (Li et al. 2018, arXiv:1810.05934)."""

    epochs: Annotated[int, Field(ge=1)]  # that every trial gets; then `reduction` times as many for those that go on
    reduction: Annotated[float, Field(gt=1, le=100)]  # the best 1/reduction goes on


class Resources(_Part):
    """What a trial takes."""

    cpus: Annotated[int, Field(ge=1)] = 1  # cores, and threads of the training
    gpus: Annotated[float, Field(ge=0)] = 0.0  # a half: two trials share one


class Sweep(_Part):
    """All of sweep.yaml."""

    model: ModelName
    objective: Literal["val_loss", "val_accuracy"]  # of the epoch that would be kept
    trials: Annotated[int, Field(ge=1, le=10_000)]
    seeds: Annotated[int, Field(ge=1, le=100)] = 1  # trainings a trial; their mean counts
    seed: Seed  # of the search
    space: Annotated[dict[str, Range], Field(min_length=1)]  # by the key of models.<model> in params.yaml
    early_stopping: EarlyStopping | None = None
    resources: Resources = Resources()
    retries: Annotated[int, Field(ge=0, le=100)] = 2  # of a trial that was lost or failed

    def present(self, settings: ModelParams) -> dict[str, Any] | None:
        """The searched settings as params.yaml has them now; None where one lies outside of the space."""
        now = {key: getattr(settings, key) for key in self.space}
        return now if all(self.space[key].holds(value) for key, value in now.items()) else None


def load(path: Path, settings: Params) -> Sweep:
    """The search that the file `path` describes, of a model with those settings in params.yaml.

    Raises:
        WorkflowError: not there, not YAML, or a value that is not allowed; a sentence for each, with its key.
    """
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WorkflowError(f"{path} is missing; run from the project's folder.") from error
    except (YAMLError, ValueError, KeyError, RecursionError) as error:
        raise WorkflowError(f"{path} is not valid YAML: {' '.join(str(error).split())[:200]}") from error
    try:
        sweep = Sweep.model_validate(values)
        complaints = list(_misfits(sweep, settings, str(path)))
    except ValidationError as error:
        complaints = [f"{path}: {_sentence(detail)}." for detail in error.errors()]
    if complaints:
        raise WorkflowError("\n       ".join(dict.fromkeys(complaints)))
    return sweep


def _misfits(sweep: Sweep, settings: Params, source: str) -> Iterator[str]:
    """A sentence for each thing that does not go with params.yaml."""
    mine = settings.models[sweep.model]
    if settings.split.validation == "test":
        yield "params.yaml: split.validation is test: a search would choose on the test set; give a number of images."
    for key in sweep.space:
        if key == "seed":
            yield f"{source}: space.seed: a seed is no setting to choose by; `seeds` trains a trial from several."
        elif key not in ModelParams.model_fields:
            yield f"{source}: unknown key 'space.{key}';{_nearest(key, ModelParams.model_fields)}."
        else:
            yield from _refusals(sweep, key, settings, source)
    if sweep.early_stopping:
        if "epochs" in sweep.space:
            yield (
                f"{source}: space.epochs and early_stopping: trials of different lengths can't be compared on the way; "
                "take one of them out."
            )
        elif sweep.early_stopping.epochs >= mine.epochs * sweep.seeds:
            yield (
                f"{source}: early_stopping.epochs is {sweep.early_stopping.epochs}, and no trial has more than "
                f"{mine.epochs * sweep.seeds}; give fewer, or leave early_stopping out."
            )


def _refusals(sweep: Sweep, key: str, settings: Params, source: str) -> Iterator[str]:
    """What params.yaml would say to the ends of one setting's range."""
    for value in sweep.space[key].ends(key):
        values = settings.model_dump()
        mine = values["models"][sweep.model]
        # One that is not set needs a value for others to be allowed, as `warmup` does for one_cycle.
        mine |= {name: span.ends(name)[0] for name, span in sweep.space.items() if mine.get(name, 0) is None}
        mine[key] = value
        try:
            params.parse(values, f"{source}, space.{key}")
        except WorkflowError as error:
            yield str(error)


def _sentence(detail: Any) -> str:
    """What was found, where, and what is allowed, from one of pydantic's error details."""
    key = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        parts: Mapping[Any, type[BaseModel]] = {"space": Range, "early_stopping": EarlyStopping, "resources": Resources}
        section = parts.get(detail["loc"][0], Sweep) if len(detail["loc"]) > 1 else Sweep
        return f"unknown key {key!r};{_nearest(str(detail['loc'][-1]), section.model_fields)}"
    if detail["type"] == "missing":
        return f"{key} is missing"
    if detail["type"] == "value_error":
        return f"{key}: {detail['ctx']['error']}"
    found = detail["input"]
    said = repr(found)[:60] if isinstance(found, str | int | float | None) else f"a {type(found).__name__}"
    return f"{key or 'the file'} is {said}; {detail['msg'].removeprefix('Input should be ')} is expected"


def _nearest(word: str, known: Mapping[str, Any]) -> str:
    """Advice for a key that is not one of `known`."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return (f" did you mean {nearest[0]}?" if nearest else "") + f" known are {', '.join(known)}"

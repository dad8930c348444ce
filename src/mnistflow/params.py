"""params.yaml -> validated, frozen settings.

The whole file is checked whenever any of it is read, so a slip in one section is found before another section's stage
spends its time.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from mnistflow.datasets import CLASSES, DATASETS
from mnistflow.workspace import WorkflowError

MOST_VALUES = 10_000
LONGEST = 1_000  # characters in a value

ModelName = Literal["dense", "cnn", "compact"]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class FetchParams(_Section):
    """Which data set, and where its files may be had."""

    dataset: str = Field(json_schema_extra={"enum": [*sorted(DATASETS)]})
    sources: Mapping[str, list[str]]  # per data set; `digits` needs none

    @model_validator(mode="after")
    def _known(self) -> "FetchParams":
        for key, name in [("dataset", self.dataset), *((f"sources.{name}", name) for name in self.sources)]:
            if name not in DATASETS:
                raise ValueError(f"fetch.{key}: {name!r} is no data set here;{_nearest(name, DATASETS)}")
        return self


class SplitParams(_Section):
    """How the training set is divided."""

    validation: Annotated[int, Field(ge=CLASSES)] | Literal["test"]  # images
    seed: Seed


class ModelParams(_Section):
    """How one network is trained."""

    seed: Seed
    epochs: Annotated[int, Field(ge=1, le=10_000)]  # at most
    batch_size: Annotated[int, Field(ge=1, le=60_000)]  # images
    optimizer: Literal["adam", "adamw", "nadam"]
    learning_rate: Annotated[float, Field(gt=0, le=1)]  # the peak, where the schedule has one
    beta_2: Annotated[float, Field(gt=0, lt=1)]
    schedule: Literal["constant", "one_cycle"]
    warmup: Share | None = None  # share of all steps; read by one_cycle alone
    final: Share | None = None  # last learning rate / peak; read by one_cycle alone
    shift: Annotated[int, Field(ge=0, le=8)]  # pixels
    rotate: Annotated[float, Field(ge=0, le=45)] = 0.0  # degrees
    zoom: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # share of the size
    patience: Annotated[int, Field(ge=1)]  # epochs

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> "ModelParams":
        for key in ("warmup", "final"):
            if self.schedule == "one_cycle" and getattr(self, key) is None:
                raise ValueError(f"schedule one_cycle needs {key!r}")
        return self


class EvaluateParams(_Section):
    """Which model is put forward, and what it must reach."""

    model: ModelName
    target_accuracy: Share


class Params(_Section):
    """All of params.yaml."""

    fetch: FetchParams
    split: SplitParams
    models: dict[str, ModelParams]
    evaluate: EvaluateParams

    @field_validator("models", mode="before")
    @classmethod
    def _are_those_that_exist(cls, models: Any) -> Any:
        if isinstance(models, dict):
            names = get_args(ModelName)
            for name in models:
                if name not in names:
                    raise ValueError(f"unknown key 'models.{name}';{_nearest(str(name), names)}")
            for name in names:
                if name not in models:
                    raise ValueError(f"models.{name} is missing")
        return models

    @model_validator(mode="after")
    def _fits_together(self) -> "Params":
        dataset = self.fetch.dataset
        if dataset != "digits" and not self.fetch.sources.get(dataset):
            raise ValueError(f"fetch.sources.{dataset} lists no source, but fetch.dataset is {dataset}")
        images, largest = DATASETS[dataset].train, DATASETS[dataset].train - CLASSES
        if isinstance(self.split.validation, int) and self.split.validation > largest:
            raise ValueError(
                f"split.validation is {self.split.validation}, but {dataset} has {images} training images; "
                f"give {CLASSES} to {largest}, or test"
            )
        return self


def load(path: Path | str = "params.yaml") -> Params:
    """The settings in the file `path`.

    Raises:
        WorkflowError: not there, not YAML, or a value that is not allowed; a sentence for each, with its key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        # The same YAML 1.2 parser that DVC uses: to both, 1e-3 is a number and a key given twice is an error.
        values = YAML(typ="safe", pure=True).load(text)
    except FileNotFoundError as error:
        raise WorkflowError(f"{path} is missing; run from the project's folder.") from error
    except UnicodeDecodeError as error:
        raise WorkflowError(f"{path} is not UTF-8 text ({error}).") from error
    except YAMLError as error:
        raise WorkflowError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    except (ValueError, KeyError, RecursionError) as error:  # a date or number that is none, a tag, endless brackets
        raise WorkflowError(f"{path} is not valid YAML: {str(error)[:100]}") from error
    _check_size(values, str(path))
    return parse(values, str(path))


def _check_size(values: Any, source: str) -> None:
    """Refuse what no settings look like, before it is looked at closely: aliases can make a short file endless.

    Raises:
        WorkflowError: too many values, a long text, or a key that is no text.
    """
    left, seen = [values], 0
    while left:
        value = left.pop()
        seen += 1
        if isinstance(value, dict):
            for key in value:
                if not isinstance(key, str):
                    raise WorkflowError(f"{source}: the key {str(key)[:60]} is no text; put it into quotes.")
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
        if seen > MOST_VALUES or (isinstance(value, str | int) and len(str(value)) > LONGEST):
            raise WorkflowError(
                f"{source} holds more than settings do: {MOST_VALUES:,} values and {LONGEST:,} characters in one are "
                "the most."
            )


def parse(values: Any, source: str = "params.yaml") -> Params:
    """The settings in the plain values of a parsed file; errors name `source`.

    Raises:
        WorkflowError: as `load`.
    """
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        sentences = dict.fromkeys(_sentence(detail, values) for detail in error.errors())
        # A misspelt key is missing too, under its right name; once is enough.
        told = [line for line in sentences if not any(f"mean {_missing(line)}?" in other for other in sentences)]
        raise WorkflowError("\n       ".join(f"{source}: {sentence}." for sentence in told)) from error


def _missing(sentence: str) -> str | None:
    """The last part of the key that a sentence calls missing."""
    key, found, _ = sentence.partition(" is missing")
    return key.rpartition(".")[2] if found else None


def _sentence(detail: Any, values: Any) -> str:
    """What was found, where, and what is allowed, from one of pydantic's error details."""
    # pydantic puts the branches of a union into the location; they are not keys of the file.
    location: list[Any] = []
    place = values
    for part in detail["loc"]:
        if isinstance(place, dict) and (part in place or detail["type"] == "missing"):
            place = place.get(part)
        elif isinstance(place, list) and isinstance(part, int):
            place = place[part]
        else:
            continue
        location.append(part)
    key = ".".join(map(str, location))
    found = repr(detail["input"])
    if len(found) > 60:
        found = found[:57] + "..."
    fields = _section(location[:-1]).model_fields
    if detail["type"] in ("extra_forbidden", "invalid_key"):
        return f"unknown key {key!r}, which is {found};{_nearest(str(location[-1]), fields)}"
    if detail["type"] == "missing":
        return f"{key} is missing"
    if detail["type"] == "value_error":
        prefix = f"{key}: " if len(location) > 1 else ""
        return prefix + str(detail["ctx"]["error"])
    if not key:
        return "it should hold the sections fetch, split, models and evaluate"
    if key == "split.validation":
        return f"{key} is {found}; a whole number of images from {CLASSES} up, or test, is allowed"
    if key == "fetch.dataset":
        return f"{key} is {found}; allowed are {', '.join(DATASETS)}"
    field = fields.get(str(location[-1]))
    if field and (bounds := _bounds(field)):
        return f"{key} is {found}; a {'whole ' * (field.annotation is int)}number {bounds} is allowed"
    message = detail["msg"].removeprefix("Input should be ")
    return f"{key} is {found}; {message} is expected"


def _section(location: list[Any]) -> type[BaseModel]:
    """The class of the section at a place in the file."""
    sections: dict[tuple[Any, ...], type[BaseModel]] = {
        (): Params,
        ("fetch",): FetchParams,
        ("split",): SplitParams,
        ("evaluate",): EvaluateParams,
    }
    return sections.get(tuple(location), ModelParams)


def _bounds(field: FieldInfo) -> str:
    """What a number may be, in words; nothing where the field has no bounds."""
    words = {"ge": "from", "gt": "above", "le": "to", "lt": "below"}
    return " ".join(
        f"{word} {getattr(bound, name)}"
        for name, word in words.items()
        for bound in field.metadata
        if getattr(bound, name, None) is not None
    )


def _nearest(word: str, known: Any) -> str:
    """Advice for a word that is not one of `known`."""
    nearest = difflib.get_close_matches(word, list(known), n=1)
    return (f" did you mean {nearest[0]}?" if nearest else "") + f" known are {', '.join(known)}"


def main(dataset: str) -> None:
    """Check params.yaml, and the name of the data set that is about to be chosen: `python -m mnistflow.params NAME`."""
    load()
    if dataset and dataset not in DATASETS:
        raise WorkflowError(f"DATASET={dataset} is no data set here;{_nearest(dataset, DATASETS)}.")


if __name__ == "__main__":
    from mnistflow import cli

    cli.run(main)

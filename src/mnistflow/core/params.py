"""params.yaml -> validated, frozen settings.

The whole file is checked whenever a part of it is read, so a mistake in one section is found before the stage of
another section spends its time. A setting that may be left out is None here; the code that uses it decides what that
means, because this package is on no stage's list of dependencies.
"""

import difflib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from mnistflow.core.errors import WorkflowError

PARAMS = Path("params.yaml")
NETWORKS = Path(__file__).parent.parent / "networks"
RESERVED = ("selected", "comparison", "audit")  # files in metrics/ that are not a model's

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """A part of a settings file: no unknown keys, no silent conversions, no changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


SectionType = TypeVar("SectionType", bound=Section)


class FetchSettings(Section):
    """Which data set is used."""

    dataset: str  # a key of datasets.yaml


class SplitSettings(Section):
    """How the training images are divided."""

    validation: Annotated[int, Field(ge=1)] | Literal["test"]  # images
    seed: Seed


class ModelSettings(Section):
    """How one network is trained."""

    network: str  # a file in src/mnistflow/networks
    seed: Seed
    epochs: Annotated[int, Field(ge=1, le=10_000)]  # at most
    batch_size: Annotated[int, Field(ge=1, le=60_000)]  # images
    optimizer: Literal["adam", "adamw", "nadam"]
    learning_rate: Annotated[float, Field(gt=0, le=1)]  # the peak, where the schedule has one
    beta_2: Annotated[float, Field(gt=0, lt=1)]
    schedule: Literal["constant", "one_cycle"]
    warmup: Share | None = None  # share of all steps; only for one_cycle
    final: Share | None = None  # last learning rate / peak; only for one_cycle
    shift: Annotated[int, Field(ge=0, le=8)] | None = None  # pixels
    rotate: Annotated[float, Field(ge=0, le=45)] | None = None  # degrees
    zoom: Annotated[float, Field(ge=0, le=0.5)] | None = None  # share of the size
    average: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of the weights' moving average over the steps
    patience: Annotated[int, Field(ge=1)]  # epochs

    @field_validator("network")
    @classmethod
    def _network_exists(cls, network: str) -> str:
        if network not in networks():
            raise ValueError(f"{network!r} is no network;{nearest(network, networks())}")
        return network

    @model_validator(mode="after")
    def _one_cycle_is_complete(self) -> "ModelSettings":
        for key in ("warmup", "final"):
            if self.schedule == "one_cycle" and getattr(self, key) is None:
                raise ValueError(f"schedule one_cycle needs {key!r}")
        return self


class EvaluateSettings(Section):
    """Which model is selected, what it is compared with, and what it must reach."""

    model: str
    baseline: str
    target_accuracy: Share  # 0 is no target
    target_robustness: Share | None = None  # of the mean accuracy on corrupted test images


class ExplainSettings(Section):
    """What the lesson's pictures show."""

    model: str
    label: Annotated[int, Field(ge=0)]  # the first validation image of this class


class Settings(Section):
    """All of params.yaml."""

    fetch: FetchSettings
    split: SplitSettings
    models: Annotated[dict[str, ModelSettings], Field(min_length=1)]
    evaluate: EvaluateSettings
    explain: ExplainSettings

    @field_validator("models")
    @classmethod
    def _names_can_be_folders(cls, models: dict[str, ModelSettings]) -> dict[str, ModelSettings]:
        for name in models:
            if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,39}", name) or name in RESERVED:
                raise ValueError(
                    f"{name!r} can't name a model; use 1 to 40 letters, digits, - and _, a letter first, "
                    f"and none of {', '.join(RESERVED)}"
                )
        return models

    @model_validator(mode="after")
    def _chosen_models_exist(self) -> "Settings":
        chosen = {
            "evaluate.model": self.evaluate.model,
            "evaluate.baseline": self.evaluate.baseline,
            "explain.model": self.explain.model,
        }
        for key, name in chosen.items():
            if name not in self.models:
                raise ValueError(f"{key} is {name!r}, which is no section of models;{nearest(name, self.models)}")
        return self

    def model_names(self) -> list[str]:
        """The models' names in the order of every table and figure: the baseline, then the others by name.

        The order of the sections does not count: DVC does not see a change of it either.
        """
        return sorted(self.models, key=lambda name: (name != self.evaluate.baseline, name))


def networks() -> list[str]:
    """The names of the networks that exist: the files in src/mnistflow/networks."""
    return sorted(path.stem for path in NETWORKS.glob("[a-z]*.py"))


def load(path: Path = PARAMS) -> Settings:
    """The settings in params.yaml.

    Raises:
        WorkflowError: the file is missing or not YAML, or a value is not allowed; a sentence for each, with its key.
    """
    return parse(Settings, read_yaml(path), str(path))


def read_yaml(path: Path) -> Any:
    """The plain values of a YAML file, read by the parser that DVC uses: to both, 1e-3 is a number.

    Raises:
        WorkflowError: the file is missing or is not YAML.
    """
    try:
        return YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise WorkflowError(f"{path} is missing; run this in the project's folder.") from error
    except UnicodeDecodeError as error:
        raise WorkflowError(f"{path} is not UTF-8 text ({error}).") from error
    except MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        # The rest of the parser's message is about its own settings.
        problem = str(error.problem).replace("<unicode string>", str(path)).partition("\n")[0]
        raise WorkflowError(f"{path}{line} is not valid YAML: {problem}.") from error
    except (YAMLError, ValueError, KeyError, RecursionError) as error:  # an impossible date, brackets without end
        raise WorkflowError(f"{path} is not valid YAML: {str(error)[:100]}.") from error


def parse(kind: type[SectionType], values: Any, source: str) -> SectionType:
    """The plain `values` of a settings file as `kind`; error messages name `source`.

    Raises:
        WorkflowError: values that are not allowed, one sentence each.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        sentences = dict.fromkeys(_sentence(detail, kind, values) for detail in error.errors())
        raise WorkflowError("\n       ".join(f"{source}: {sentence}." for sentence in sentences)) from error


def _sentence(detail: Any, kind: type[Section], values: Any) -> str:
    """The key, what was found there and what is allowed, from one of pydantic's error details."""
    key = ".".join(map(str, _location(detail, values)))
    found = repr(detail["input"])
    found = found if len(found) <= 60 else found[:57] + "..."
    if detail["type"] == "extra_forbidden":
        return f"unknown key {key}, which is {found};{nearest(str(detail['loc'][-1]), _keys(kind.model_json_schema()))}"
    if detail["type"] == "missing":
        return f"{key} is missing"
    if detail["type"] == "value_error":
        return f"{key}: {detail['ctx']['error']}" if key else str(detail["ctx"]["error"])
    message = detail["msg"].removeprefix("Input should be ")
    return f"{key or 'the file'} is {found}; {message} is allowed"


def _location(detail: Any, values: Any) -> Iterator[Any]:
    """The keys that lead to the value; pydantic adds the branches of a union, which are no keys of the file."""
    for part in detail["loc"]:
        if isinstance(values, dict) and (part in values or detail["type"] == "missing"):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part]
        else:
            continue
        yield part


def _keys(schema: dict[str, Any]) -> set[str]:
    """All keys that a settings file may have at any depth."""
    sections = [schema, *schema.get("$defs", {}).values()]
    return {key for section in sections for key in section.get("properties", {})}


def nearest(word: str, known: Iterable[str]) -> str:
    """Advice for a word that is not one of the `known` ones: the most similar one and a list."""
    known = sorted(known)
    matches = difflib.get_close_matches(word, known, n=1)
    shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return (f" did you mean {matches[0]}?" if matches else "") + f" known are {shown}"

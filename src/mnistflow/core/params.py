"""params.yaml -> validated, frozen settings.

The whole file is checked whenever a part of it is read, so a mistake in one section is found before the stage of
another section spends its time. A setting that may be left out is None here; the code that uses it decides what that
means, because this package is on no stage's list of dependencies.
"""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from ruamel.yaml import YAML
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from mnistflow.core.errors import WorkflowError
from mnistflow.core.files import merge_line

PARAMS = Path("params.yaml")
NETWORKS = Path(__file__).parent.parent / "networks"
SHOWN = 10  # mistakes in a message
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
    bend: Annotated[float, Field(ge=0, le=4)] | None = None  # pixels; more would fold images of 28x28 over
    smoothing: Annotated[float, Field(ge=0, lt=1)] | None = None  # share of each label, spread over all classes
    average: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of the weights' moving average over the steps
    patience: Annotated[int, Field(ge=1)]  # epochs

    @field_validator("network")
    @classmethod
    def _network_exists(cls, network: str) -> str:
        if network not in networks():
            raise ValueError(
                f"{network!r} is no file in src/mnistflow/networks with a name of letters, digits and _ alone;"
                + nearest(network, networks())
            )
        return network

    @model_validator(mode="after")
    def _one_cycle_is_complete(self) -> "ModelSettings":
        missing = [key for key in ("warmup", "final") if getattr(self, key) is None]
        if self.schedule == "one_cycle" and missing:
            raise ValueError(f"schedule one_cycle needs {' and '.join(missing)}, each from 0 to 1; add what is missing")
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
        missing = {key: name for key, name in chosen.items() if name not in self.models}
        if missing:
            mistakes = " and ".join(f"{key} is {name!r}" for key, name in missing.items())
            name = next(iter(missing.values()))
            advice = f"set {'it' if len(missing) == 1 else 'each'} to one that it has;{nearest(name, self.models)}"
            raise ValueError(f"{mistakes}, but models has no section of that name: {advice}")
        return self

    def model_names(self) -> list[str]:
        """The models' names in the order of every table and figure: the baseline, then the others by name.

        The order of the sections does not count: DVC does not see a change of it either.
        """
        return sorted(self.models, key=lambda name: (name != self.evaluate.baseline, name))


def networks() -> list[str]:
    """The names of the networks that exist: the files in src/mnistflow/networks."""
    names = (path.stem for path in NETWORKS.glob("*.py"))
    return sorted(name for name in names if name.isidentifier() and not name.startswith("_"))


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
        text = path.read_text(encoding="utf-8")
        if line := merge_line(text):
            raise WorkflowError(
                f"{path}, line {line} begins a conflict of a merge, with both sides in the file; keep the lines that "
                "are right, and delete the others and those of <, = and >."
            )
        return YAML(typ="safe", pure=True).load(text)
    except FileNotFoundError as error:
        raise WorkflowError(f"{path} is missing; run this in the project's folder.") from error
    except UnicodeDecodeError as error:
        raise WorkflowError(f"{path} is not UTF-8 text ({error}); save it as UTF-8.") from error
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        # The rest of the parser's message is about its own settings.
        problem = str(error.problem).replace("<unicode string>", str(path)).partition("\n")[0]
        if isinstance(error, DuplicateKeyError):
            key = problem.removeprefix("found duplicate key ").partition(" with value")[0]
            raise WorkflowError(
                f"{path}, line {line} has the key {key} for a second time; remove one of them."
            ) from error
        raise WorkflowError(
            f"{path}, line {line} or the line before it can't be read as YAML: {problem}; correct it there."
        ) from error
    except (YAMLError, ValueError, KeyError, RecursionError) as error:  # an impossible date, brackets without end
        raise WorkflowError(f"{path} can't be read as YAML: {str(error)[:100]}.") from error


def parse(kind: type[SectionType], values: Any, source: str) -> SectionType:
    """The plain `values` of a settings file as `kind`; error messages name `source`.

    Raises:
        WorkflowError: values that are not allowed, one sentence each.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        mistakes: dict[tuple[str, ...], list[Any]] = {}
        for detail in error.errors():  # of a value that may be one of several kinds, there is one for each
            mistakes.setdefault(_key(detail, values), []).append(detail)
        sentences = [f"{source}: {_sentence(key, details, kind)}." for key, details in mistakes.items()]
        more = [f"... and {len(sentences) - SHOWN} more"] if len(sentences) > SHOWN else []
        raise WorkflowError("\n       ".join(sentences[:SHOWN] + more)) from error


def _key(detail: Any, values: Any) -> tuple[str, ...]:
    """The keys that lead to a value; pydantic adds the branches of a union, which are no keys of the file."""
    keys = []
    for part in detail["loc"]:
        if isinstance(values, dict) and (part in values or detail["type"] == "missing"):
            values = values.get(part)
        elif isinstance(values, list) and isinstance(part, int):
            values = values[part]
        else:
            break
        keys.append(str(part))
    return tuple(keys)


def _sentence(key: tuple[str, ...], details: list[Any], kind: type[Section]) -> str:
    """Where the mistake is, what was found there and what is expected, from pydantic's details of one value."""
    name, first = ".".join(key), details[0]
    if first["type"] == "extra_forbidden":
        known = _section(kind, key[:-1])["properties"]
        return f"unknown key {name}; remove it or correct its name;{nearest(key[-1], known)}"
    if first["type"] == "value_error":
        return f"{name}: {first['ctx']['error']}" if name else str(first["ctx"]["error"])
    if first["loc"][-1:] == ("[key]",):
        return f"{name} is no name, because it is no text; choose a name that begins with a letter"
    if first["type"] == "missing":
        return f"{name} is missing; add it"
    expected = " or ".join(dict.fromkeys(_expected(detail, kind, key) for detail in details))
    return f"{name or 'it'} is {_in_words(first['input'])}; {expected} is expected"


def _in_words(value: Any) -> str:
    """A value of a settings file, as a message names it."""
    if value is None or value in ({}, []):
        return "empty"
    if isinstance(value, dict):
        return "a section with keys"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _expected(detail: Any, kind: type[Section], key: tuple[str, ...]) -> str:
    """What is allowed in the place of a value, in words."""
    context = {
        name: f"{value:g}" if isinstance(value, float) else value for name, value in detail.get("ctx", {}).items()
    }
    words = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "finite_number": "a number",
        "string_type": "a text",
        "bool_type": "true or false",
        "list_type": "a list",
        "dict_type": "a section with keys",
        "greater_than": "more than {gt}",
        "greater_than_equal": "at least {ge}",
        "less_than": "less than {lt}",
        "less_than_equal": "at most {le}",
        "too_short": "a list of at least {min_length}",
        "too_long": "a list of at most {max_length}",
        "literal_error": "{expected}",
    }
    if detail["type"] == "string_type" and isinstance(detail["input"], int | float):
        return f'a text, as "{_in_words(detail["input"])}",'
    if detail["type"] == "model_type":
        return f"a section with the keys {', '.join(_section(kind, key)['required'])}"
    if detail["type"] == "string_pattern_mismatch":
        return (
            f"a checksum of {context['pattern'].strip('^$').partition('{')[2].rstrip('}')} digits, 0 to 9 and a to f,"
        )
    if detail["input"] == {}:
        return words["dict_type"]
    return words[detail["type"]].format(**context) if detail["type"] in words else str(detail["msg"])


def _section(kind: type[Section], path: Iterable[str]) -> dict[str, Any]:
    """The JSON schema of the section at `path`: its keys are the `properties`, those that it must have `required`."""
    schema = whole = kind.model_json_schema()
    for part in path:
        schema = schema.get("properties", {}).get(part) or schema["additionalProperties"]
        schema = schema.get("anyOf", [schema])[0]  # of a section that may be left out
        if reference := schema.get("$ref"):
            schema = whole["$defs"][reference.rpartition("/")[2]]
    return schema


def nearest(word: str, known: Iterable[str]) -> str:
    """Advice for a word that is not one of the `known` ones: the most similar one and a list."""
    known = sorted(known)
    matches = difflib.get_close_matches(word, known, n=1)
    shown = (", ".join(known[:20]) or "none") + (", ..." if len(known) > 20 else "")
    return (f" did you mean {matches[0]}?" if matches else "") + f" known are {shown}"

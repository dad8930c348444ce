"""datasets.yaml: what is known of each data set before it is fetched."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from mnistflow.core.errors import WorkflowError
from mnistflow.core.params import Section, nearest, parse, read_yaml

CATALOG = Path("datasets.yaml")
ROLES = ("train_images", "train_labels", "test_images", "test_labels")
PEOPLE = 5  # who were asked about each disputed image

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class File(Section):
    """One file of a data set, and the published SHA-256 by which a right copy is known, whatever it is called."""

    name: str
    sha256: Sha256
    unpacked: Sha256 | None = None  # of the content, where the file is compressed


class Dispute(NamedTuple):
    """A test image whose label fewer than three of five people chose."""

    image: int  # its index in the test set
    label: int  # as the test set has it
    other: int  # what else the people could choose: a classifier's guess
    for_label: int  # people, of five
    for_other: int  # people; the rest chose neither of the two


class Dataset(Section):
    """One entry of datasets.yaml."""

    format: Literal["idx", "scikit-learn"]
    classes: Annotated[list[str], Field(min_length=2)]  # a name per label
    files: dict[str, File] = Field(default_factory=dict)  # by role
    sources: list[str] = Field(default_factory=list)  # URLs or folders that have the files, tried in order
    prepare: Literal["digit"] | None = (
        None  # how a photo or a scan is made into an image: ink is light on dark, centred
    )
    disputed: list[Annotated[list[int], Field(min_length=5, max_length=5)]] = Field(default_factory=list)
    params: dict[str, Any] = Field(default_factory=dict)  # values for params.yaml that suit this data set

    @model_validator(mode="after")
    def _files_are_complete(self) -> "Dataset":
        if self.format == "idx" and sorted(self.files) != sorted(ROLES):
            raise ValueError(f"files has {', '.join(self.files) or 'nothing'}; {', '.join(ROLES)} are expected")
        return self

    def disputes(self) -> list[Dispute]:
        """The disputed test images, by index."""
        return sorted(Dispute(*row) for row in self.disputed)


def load(name: str, path: Path = CATALOG) -> Dataset:
    """The entry of one data set.

    Raises:
        WorkflowError: datasets.yaml can't be read, has no such entry, or a value in the entry is not allowed.
    """
    entries = read_yaml(path)
    if not isinstance(entries, dict) or name not in entries:
        known = entries if isinstance(entries, dict) else {}
        raise WorkflowError(f"{name!r} is no data set in {path};{nearest(name, map(str, known))}.")
    return parse(Dataset, entries[name], f"{path}, {name}")

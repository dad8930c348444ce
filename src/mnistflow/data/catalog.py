"""datasets.yaml: the known data sets."""

from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, model_validator

from mnistflow.core.errors import WorkflowError
from mnistflow.core.params import Section, nearest, parse, read_yaml

CATALOG = Path("datasets.yaml")
ROLES = ("train_images", "train_labels", "test_images", "test_labels")  # of IDX files
# The roles of a data set's files by format: required ones, optional ones.
FILES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "idx": (ROLES, ()),
    "npz": (("arrays",), ()),
    "csv": (("train_table",), ("test_table",)),
    "scikit-learn": ((), ()),
    "pictures": ((), ()),
}
PEOPLE = 5  # annotators for each disputed image

Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Md5 = Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
Pixels = Annotated[int, Field(ge=1, le=4096)]


class File(Section):
    """One file of a data set, with its published checksums."""

    name: str
    sha256: Sha256 | None = None
    unpacked: Sha256 | None = None  # of the decompressed content
    md5: Md5 | None = None  # where its authors publish no SHA-256

    def checksum(self) -> str | None:
        """The checksum as pooch takes it, or None."""
        return f"sha256:{self.sha256}" if self.sha256 else f"md5:{self.md5}" if self.md5 else None


class Dispute(NamedTuple):
    """A test image whose label fewer than three of five annotators confirmed."""

    image: int  # its index in the test set
    label: int  # in the test set
    other: int  # the class that was offered besides: a classifier's prediction
    for_label: int  # votes, of five
    for_other: int  # votes; the others were for neither


class Dataset(Section):
    """One entry of datasets.yaml."""

    format: Literal["idx", "npz", "csv", "pictures", "scikit-learn"]
    classes: Annotated[list[str], Field(min_length=2)]  # a name per label
    files: dict[str, File] = Field(default_factory=dict)  # by role
    archive: File | None = None  # a ZIP file with all files, where they are published so
    sources: list[str] = Field(default_factory=list)  # URLs and folders, tried in order
    transposed: bool = False  # each image is stored column by column, as EMNIST's are
    first_label: Annotated[int, Field(ge=0)] = 0  # the label of the first class
    size: Annotated[list[Pixels], Field(min_length=2, max_length=2)] | None = None  # height and width: pictures and CSV
    colour: bool = False  # pictures and CSV: three channels instead of one
    # Share of each class that is held out as the test set, where there is no test part.
    test: Annotated[float, Field(gt=0, lt=1)] | None = None
    # The number of pictures at the import, and a hash of their paths, classes and contents. Neither is checked later.
    count: int | None = None
    sha256: Sha256 | None = None
    prepare: Literal["digit"] | None = None  # preprocessing of photos and scans: data/preparation.py
    disputed: list[Annotated[list[int], Field(min_length=5, max_length=5)]] = Field(default_factory=list)
    params: dict[str, Any] = Field(default_factory=dict)  # values for params.yaml that suit this data set

    @model_validator(mode="after")
    def _is_complete(self) -> "Dataset":
        needed, optional = FILES[self.format]
        if not set(needed) <= set(self.files) <= {*needed, *optional}:
            raise ValueError(
                f"files has {', '.join(self.files) or 'nothing'}; expected of the format {self.format} is "
                f"{', '.join(needed) or 'nothing'}" + "".join(f", and allowed is {role}" for role in optional)
            )
        if self.format == "pictures" and self.size is None:
            raise ValueError("size is missing; [height, width] in pixels is expected")
        if self.format == "csv" and "test_table" not in self.files and self.test is None:
            raise ValueError("files has no test_table; `test`, the share of the images held out to test, is expected")
        if len(set(self.classes)) < len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise ValueError(f"classes has {twice!r} twice")
        return self

    def shape(self) -> tuple[int, ...] | None:
        """The shape of an image, where the entry has it: (height, width) in grey, (height, width, 3) in colour."""
        return (*self.size, *([3] if self.colour else [])) if self.size else None

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

"""The data sets that can be fetched, how to fetch them, and how to decode their IDX files.

IDX, as MNIST's authors define it: two zero bytes, a type code (0x08 is an unsigned byte), the number of dimensions,
each dimension as a big-endian 32-bit integer, then the values in row-major order.
"""

import gzip
import logging
import math
import shutil
import signal
import struct
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mnistflow.workspace import WorkflowError, replacing, without_password

Images = npt.NDArray[np.uint8]  # (n, 28, 28): 0 is background, 255 is ink
Labels = npt.NDArray[np.uint8]  # (n,): 0 to 9

SIZE = 28  # pixels, both ways
CLASSES = 10
PARTS = ("train", "t10k")  # how the four files' names begin: training set, test set
# When a source counts as failed for a file:
TIMEOUT = 20  # seconds without an answer or without data
PATIENCE = 300  # seconds for all of it, for a source that sends a byte now and then
LARGEST = 100_000_000  # bytes, for one that does not end

DIGITS = tuple("0123456789")


@dataclass(frozen=True)
class Dispute:
    """A test image whose label fewer than three of five people saw in it."""

    label: int  # as the test set has it
    other: int  # what else the people could choose: a classifier's guess
    for_label: int  # people, of five
    for_other: int  # people; the rest saw neither of the two


@dataclass(frozen=True)
class Dataset:
    """What is known of a data set before it is fetched."""

    train: int  # images
    test: int  # images
    classes: tuple[str, ...]  # a name per label
    sha256: Mapping[str, str]  # of each file; empty for `digits`, which scikit-learn ships
    disputed: Mapping[int, Dispute] = field(default_factory=dict)  # by index in the test set; empty if nobody asked


def _files(*sha256: str) -> dict[str, str]:
    names = [name for part in PARTS for name in (images_file(part), labels_file(part))]
    return dict(zip(names, sha256, strict=True))


def images_file(part: str) -> str:
    """The name of the images' file of `train` or `t10k`."""
    return f"{part}-images-idx3-ubyte.gz"


def labels_file(part: str) -> str:
    """The name of the labels' file of `train` or `t10k`."""
    return f"{part}-labels-idx1-ubyte.gz"


DATASETS: dict[str, Dataset] = {
    # Y. LeCun, C. Cortes, C. Burges: The MNIST database of handwritten digits. CC BY-SA 3.0.
    "mnist": Dataset(
        train=60_000,
        test=10_000,
        classes=DIGITS,
        sha256=_files(
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        # C. Northcutt, A. Athalye, J. Mueller (2021): Pervasive Label Errors in Test Sets Destabilize Machine Learning
        # Benchmarks, arXiv:2103.14749, and its label-errors corpus. They asked about some hundred suspicious images.
        disputed={
            947: Dispute(8, 9, 0, 5),
            1621: Dispute(0, 6, 2, 3),
            1901: Dispute(9, 4, 2, 3),
            2130: Dispute(4, 9, 2, 2),
            2462: Dispute(2, 0, 0, 4),
            2597: Dispute(5, 3, 0, 4),
            2654: Dispute(6, 1, 0, 2),
            3520: Dispute(6, 4, 2, 0),
            3558: Dispute(5, 0, 1, 4),
            5937: Dispute(5, 3, 1, 3),
            6651: Dispute(0, 6, 0, 5),
            6783: Dispute(1, 6, 2, 3),
            8527: Dispute(4, 9, 2, 2),
            9679: Dispute(6, 3, 2, 0),
            9729: Dispute(5, 6, 2, 3),
        },
    ),
    # H. Xiao, K. Rasul, R. Vollgraf (2017): Fashion-MNIST, arXiv:1708.07747. MIT.
    "fashion_mnist": Dataset(
        train=60_000,
        test=10_000,
        classes=(
            "T-shirt/top",
            "trouser",
            "pullover",
            "dress",
            "coat",
            "sandal",
            "shirt",
            "sneaker",
            "bag",
            "ankle boot",
        ),
        sha256=_files(
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
    ),
    # T. Clanuwat et al. (2018): Deep Learning for Classical Japanese Literature, arXiv:1812.01718. CC BY-SA 4.0.
    "kmnist": Dataset(
        train=60_000,
        test=10_000,
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        sha256=_files(
            "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        ),
    ),
    # E. Alpaydin, C. Kaynak (1998): Optical Recognition of Handwritten Digits, UCI. The part that scikit-learn ships.
    "digits": Dataset(train=1_497, test=300, classes=DIGITS, sha256={}),
}


def fetch(
    name: str, sources: Sequence[str], project: Path, downloads: Path, output: Path, must: str | None = None
) -> None:
    """Put the four files of the data set `name` into the folder `output`, each with the published SHA-256.

    Sources are tried in order, for each file anew: a folder (relative to `project`) or a URL under which the files
    have their usual names. A folder that is not there is passed over in silence, unless it is `must`, the one that
    somebody asked for. What was downloaded stays in `downloads` and is not fetched again while its hash is right.

    Raises:
        WorkflowError: no source gave a file; the message lists what was tried and why it failed.
    """
    if name == "digits":
        write_digits(output)
        print("digits: the 1,797 images that scikit-learn ships")
        return
    for file, sha256 in DATASETS[name].sha256.items():
        kept = downloads / file
        if kept.is_file() and _sha256(kept) == sha256:
            print(f"{file}: already here")
        else:
            print(f"{file}: from {_fetch_file(name, file, sha256, sources, project, kept, must)}")
        with replacing(output / file) as temporary:
            shutil.copyfile(kept, temporary)


def _fetch_file(
    name: str, file: str, sha256: str, sources: Sequence[str], project: Path, kept: Path, must: str | None
) -> str:
    """Bring `file` to `kept` from the first source that has it right; returns that source."""
    failures = []
    for source in sources:
        shown = without_password(source)
        try:
            if source.startswith(("http://", "https://")):
                _download(source.rstrip("/") + "/" + file, sha256, kept)
            elif "://" in source.removeprefix("file://"):
                raise _SourceError("neither a folder nor an http address")
            else:
                _copy(_folder(project, source) / file, sha256, kept)
            return shown
        except _SourceError as error:
            failures.append(f"{shown}: {error}")
            if error.remarkable or source == must:
                print(f"{file}: {shown}: {error}; trying the next source", file=sys.stderr)
    tried = "; ".join(failures) or "no source is listed"
    raise WorkflowError(
        f"{file} of {name} could not be had ({tried}); "
        f"set MNISTFLOW_SOURCE to a folder or URL that has it, or list one under fetch.sources.{name} in params.yaml."
    )


def _folder(project: Path, source: str) -> Path:
    """The folder that a source names; relative to the project."""
    try:
        folder = project / Path(source.removeprefix("file://")).expanduser()
        folder.exists()
    except (RuntimeError, OSError) as error:  # nobody is called like that, a name is too long
        raise _SourceError(str(error)[-100:]) from error
    return folder


class _SourceError(Exception):
    """Why one source did not give one file. Not remarkable: a folder that may be there and is not."""

    def __init__(self, reason: str, *, remarkable: bool = True) -> None:
        super().__init__(reason)
        self.remarkable = remarkable


def _copy(path: Path, sha256: str, kept: Path) -> None:
    if not path.is_file():
        reason = "no such file in it" if path.parent.is_dir() else "no such folder"
        raise _SourceError(reason, remarkable=False)
    if (found := _sha256(path)) != sha256:
        raise _SourceError(_wrong_hash(found, sha256))
    with replacing(kept) as temporary:
        shutil.copyfile(path, temporary)


def _download(url: str, sha256: str, kept: Path) -> None:
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=TIMEOUT)
    with replacing(kept) as temporary:
        try:
            with temporary.open("wb") as file, _within(PATIENCE):
                downloader(url, _Limited(file), pooch)
        except (requests.RequestException, ValueError) as error:
            raise _SourceError(_reason(error)) from error
        if (found := _sha256(temporary)) != sha256:
            raise _SourceError(_wrong_hash(found, sha256))


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Give the source up when the block takes longer."""

    def give_up(*_: object) -> None:
        raise _SourceError(f"not complete after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class _Limited:
    """A file that takes so much and no more."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.flush = file.flush

    def write(self, chunk: bytes) -> None:
        if self._file.tell() + len(chunk) > LARGEST:
            raise _SourceError(f"more than {LARGEST:,} bytes")
        self._file.write(chunk)


def _reason(error: Exception) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code} {error.response.reason}"
    names = {
        requests.exceptions.TooManyRedirects: "too many redirects",
        requests.exceptions.Timeout: f"no answer for {TIMEOUT} s",
        requests.exceptions.ChunkedEncodingError: "the connection broke half-way",
        requests.exceptions.SSLError: "its certificate is not trusted",
        requests.exceptions.ConnectionError: "can't be reached",
    }
    return next((text for kind, text in names.items() if isinstance(error, kind)), str(error))


def _sha256(path: Path) -> str:
    import pooch

    return str(pooch.file_hash(str(path)))


def _wrong_hash(found: str, expected: str) -> str:
    return f"wrong checksum, SHA-256 {found} instead of {expected}"


def write_digits(output: Path) -> None:
    """Write scikit-learn's 8x8 digits as the four IDX files of a 28x28 data set, the last 300 images as its test set.

    Each image is brought to 24x24 by linear interpolation, its 0-16 to 0-255, with a margin of 2 pixels around.
    """
    from scipy.ndimage import zoom
    from sklearn.datasets import load_digits

    small, labels = load_digits(return_X_y=True)
    large = zoom(small.reshape(-1, 8, 8), (1, 3, 3), order=1, grid_mode=True, mode="nearest")
    images = np.pad(np.rint(large * (255 / 16)), ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    train = DATASETS["digits"].train
    for part, chosen in (("train", slice(None, train)), ("t10k", slice(train, None))):
        write_idx(output / images_file(part), images[chosen])
        write_idx(output / labels_file(part), labels[chosen].astype(np.uint8))


def write_idx(path: Path, values: npt.NDArray[np.uint8]) -> None:
    """Write an array of bytes as a compressed IDX file; the same array always gives the same bytes."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 0x08, values.ndim, *values.shape)
    with replacing(path) as temporary:
        temporary.write_bytes(gzip.compress(header + values.tobytes(), mtime=0))


def read_part(folder: Path, part: str) -> tuple[Images, Labels]:
    """The images (n, 28, 28) and labels (n,) of `train` or `t10k`, both uint8.

    Raises:
        WorkflowError: a file is missing, is not what IDX says, or the two files do not belong together.
    """
    images_path, labels_path = folder / images_file(part), folder / labels_file(part)
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (SIZE, SIZE):
        raise WorkflowError(
            f"{images_path} holds images of {images.shape[1]}x{images.shape[2]} pixels; {SIZE}x{SIZE} are expected."
        )
    if len(images) != len(labels):
        raise WorkflowError(
            f"{images_path} holds {len(images)} images, but {labels_path} holds {len(labels)} labels; "
            "the two do not belong together."
        )
    if len(labels) and labels.max() >= CLASSES:
        place = int(labels.argmax())
        raise WorkflowError(
            f"{labels_path}: label {labels[place]} at position {place} is out of range; 0 to {CLASSES - 1} are allowed."
        )
    return images, labels


def read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """The array in a compressed IDX file of unsigned bytes with so many dimensions.

    Never reads more than the header promises, and never believes the header before the bytes are there.

    Raises:
        WorkflowError: missing, not gzip, wrong magic number, truncated, or longer than its header says.
    """
    magic = struct.pack(">HBB", 0, 0x08, dimensions)
    start = len(magic) + 4 * dimensions
    try:
        with gzip.open(path) as file:
            header = file.read(start)
            if len(header) < start or not header.startswith(magic):
                raise WorkflowError(
                    f"{path} begins with {header[:4].hex() or 'nothing'}; an IDX file of unsigned bytes "
                    f"with {dimensions} dimension{'s' * (dimensions > 1)} begins with {magic.hex()}."
                )
            shape = struct.unpack(f">{dimensions}I", header[len(magic) :])
            expected = math.prod(shape)
            values = bytearray()
            while len(values) <= expected and (chunk := file.read(1 << 20)):
                values += chunk
    except FileNotFoundError as error:
        raise WorkflowError(f"{path} is missing; `dvc repro fetch` brings it.") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise WorkflowError(
            f"{path} is not a whole gzip file ({error}); delete it and run `dvc repro fetch`."
        ) from error
    if len(values) != expected:
        raise WorkflowError(
            f"{path}: the header promises {' x '.join(map(str, shape))} = {expected} bytes, "
            f"but {len(values) if len(values) < expected else 'more'} follow."
        )
    return np.frombuffer(values, np.uint8).reshape(shape)

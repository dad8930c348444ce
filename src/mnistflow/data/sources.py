"""Fetch a data set's files from folders and web addresses, tried in order, and check each file by its hash."""

import gzip
import hashlib
import logging
import shutil
import signal
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from mnistflow.core.errors import WorkflowError, without_password
from mnistflow.core.files import naming, replacing, root
from mnistflow.data.catalog import File

SILENCE = 20  # seconds without an answer or without data, after which a download fails
PATIENCE = 300  # seconds after which a download fails, however steadily it goes on
DAMAGED = (EOFError, zlib.error, gzip.BadGzipFile)  # of a gzip file


class SourceError(Exception):
    """A source did not provide a file; the message is the reason."""


def fetch(
    files: dict[str, File], sources: Sequence[str], downloads: Path, output: Path, archive: File | None = None
) -> None:
    """Put each file, decompressed, into the folder `output` under the name of its role.

    After a failure, the next source is asked for the files that are missing.

    Args:
        files: the files by role.
        sources: folders (relative ones start at the project) and URLs, tried in order.
        downloads: the folder in which downloaded files stay, so that they are not downloaded again.
        output: the folder for the decompressed files, whose bytes do not depend on the source.
        archive: a ZIP file that has all files, where they are published so.

    Raises:
        WorkflowError: no source has a file; the message lists what was tried and why it failed.
    """
    output.mkdir(parents=True, exist_ok=True)
    missing, failures = dict(files), list[str]()
    for source in dict.fromkeys(sources):
        shown = without_password(source)
        try:
            for role, file in list(missing.items()):
                path = _get(source, file, archive, downloads)
                _decompress(path, output / role)
                print(f"{role}: {path.name} from {shown}{_unchecked(path, file, archive, downloads)}", flush=True)
                del missing[role]
        except SourceError as error:
            failures.append(f"{shown}: {error}")
    if missing:
        role, file = next(iter(missing.items()))
        tried = "; ".join(failures) or "no sources"
        raise WorkflowError(
            f"{file.name} ({role}) could not be fetched ({tried}); set MNISTFLOW_SOURCE to a folder or an address "
            "that has it, or list one under `sources` in datasets.yaml."
        )


def _get(source: str, file: File, archive: File | None, downloads: Path) -> Path:
    """The file from one source, as it is or out of the archive.

    Raises:
        SourceError: the source has no such file, or one with another hash.
    """
    if source.startswith(("http://", "https://")):
        if archive:
            return _extract(_download(source, archive, downloads), file, downloads)
        return _download(source, file, downloads)
    try:
        folder = root() / Path(source.removeprefix("file://")).expanduser()
    except RuntimeError as error:  # ~NAME
        raise SourceError("no such user") from error
    try:
        return _search(folder, file)
    except SourceError:
        if archive is None:
            raise
        return _extract(_search(folder, archive), file, downloads)


def _search(folder: Path, file: File) -> Path:
    """The file in a folder, under any of its usual names, compressed or not; where it has a checksum, that decides.

    Raises:
        SourceError: the folder does not exist, or has no file with the right checksum.
    """
    import pooch

    if not folder.is_dir():
        raise SourceError("no such folder")
    candidates = [path for name in _spellings(file.name) for path in (folder / name, folder / name / name)]
    present = [path for path in candidates if path.is_file()]
    for path in present:
        if file.checksum() is None or _is_right(path, file):
            return path
    if present:
        kind, right = ("SHA-256", file.sha256) if file.sha256 else ("MD5", file.md5)
        actual = pooch.file_hash(str(present[0]), kind.replace("-", "").lower())
        raise SourceError(f"{present[0].name} has {kind} {actual}, not {right}")
    raise SourceError(f"no file {file.name} in it")


def _spellings(name: str) -> list[str]:
    """The names under which a file is published: with and without .gz, with -idx and .idx."""
    plain = name.removesuffix(".gz")
    dotted = plain.replace("-idx", ".idx")
    return [f"{plain}.gz", plain, dotted, f"{dotted}.gz"]


def _is_right(path: Path, file: File) -> bool:
    """Whether a file is the published one. Where its content's hash is known, it may be compressed or not."""
    import pooch

    if file.unpacked is None:
        return bool(pooch.file_hash(str(path), "sha256" if file.sha256 else "md5") == (file.sha256 or file.md5))
    try:
        with _opened(path) as content:
            return hashlib.file_digest(content, "sha256").hexdigest() == file.unpacked
    except DAMAGED:
        return False


def _extract(archive: Path, file: File, downloads: Path) -> Path:
    """The file out of a ZIP file, from whichever folder in it, into `downloads`.

    Raises:
        SourceError: it is no ZIP file, or does not have the file.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            members = {Path(name).name: name for name in packed.namelist()}
            name = next((name for name in _spellings(file.name) if name in members), None)
            if name is None:
                raise SourceError(f"no file {file.name} in {archive.name}")
            downloads.mkdir(parents=True, exist_ok=True)
            with replacing(downloads / name) as temporary:
                temporary.write_bytes(packed.read(members[name]))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise SourceError(f"{archive.name} is no ZIP file, or damaged ({error})") from error
    return _search(downloads, file)


def _unchecked(path: Path, file: File, archive: File | None, downloads: Path) -> str:
    """A clause for a file that has no published checksum, nor has its archive."""
    import pooch

    if file.checksum() or (archive and archive.checksum() and path.parent == downloads):
        return ""
    return f", not checked, because datasets.yaml has no checksum of it; SHA-256 {pooch.file_hash(str(path))}"


def _download(source: str, file: File, downloads: Path) -> Path:
    """The downloaded file, checked by its hash; from `downloads` if it is there already.

    Raises:
        SourceError: the download failed, or the hash is another.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    downloader = pooch.HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=SILENCE)
    url = f"{source.rstrip('/')}/{file.name}"
    try:
        with _within(PATIENCE):
            return Path(pooch.retrieve(url, file.checksum(), file.name, downloads, downloader=downloader))
    except requests.exceptions.Timeout as error:
        raise SourceError(f"no answer for {SILENCE} s") from error
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code if error.response is not None else "error"
        raise SourceError(f"HTTP {status}") from error
    except requests.exceptions.ConnectionError as error:
        raise SourceError("can't be reached") from error
    except (requests.RequestException, ValueError) as error:  # ValueError: the hash is another
        raise SourceError(str(error).partition("\n")[0][:200]) from error


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise a SourceError when the block takes longer; the timeout of requests bounds the silence alone."""

    def give_up(*_: object) -> None:
        raise SourceError(f"not complete after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _decompress(path: Path, target: Path) -> None:
    """Write the content of a file, compressed or not, to `target`.

    Raises:
        SourceError: it is compressed and damaged.
    """
    try:
        with naming(target), _opened(path) as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
    except DAMAGED as error:
        raise SourceError(f"{path} is damaged ({error}); delete it") from error


def _opened(path: Path) -> gzip.GzipFile | BufferedReader:
    """The content of a file; its first bytes say whether it is packed, as some browsers unpack it and keep its name."""
    with path.open("rb") as file:
        is_packed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if is_packed else path.open("rb")

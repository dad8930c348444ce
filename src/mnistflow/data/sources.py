"""Where a data set's files come from: folders and web addresses, tried in order, each file checked by its hash."""

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
from pathlib import Path

from mnistflow.core.errors import WorkflowError, without_password
from mnistflow.core.files import naming, replacing, root
from mnistflow.data.catalog import File

SILENCE = 20  # seconds without an answer or without data, after which a source has failed
PATIENCE = 300  # seconds for one file, after which a slow source has failed for all files


class SourceError(Exception):
    """Why one source did not give one file; `is_final` if it is not worth asking for the next file."""

    def __init__(self, reason: str, *, is_final: bool = False) -> None:
        super().__init__(reason)
        self.is_final = is_final


def fetch(
    files: dict[str, File], sources: Sequence[str], downloads: Path, output: Path, archive: File | None = None
) -> None:
    """Put each file, unpacked, into the folder `output` under the name of its role.

    Args:
        files: the files by role.
        sources: folders (relative ones start at the project) and URLs, tried in order for each file. A source that
            was too slow is not asked again.
        downloads: the folder in which downloaded files stay, so that they are not downloaded again.
        output: the folder for the unpacked files; the same bytes, whichever source they came from.
        archive: a ZIP file that has all files, where they are published so.

    Raises:
        WorkflowError: no source has a file; the message lists what was tried and why it failed.
    """
    output.mkdir(parents=True, exist_ok=True)
    remaining = list(dict.fromkeys(sources))
    for role, file in files.items():
        failures = []
        for source in list(remaining):
            shown = without_password(source)
            try:
                path = _get(source, file, archive, downloads)
                _unpack(path, output / role)
            except SourceError as error:
                failures.append(f"{shown}: {error}")
                if error.is_final:
                    remaining.remove(source)
            else:
                print(f"{role}: {path.name} from {shown}{_unchecked(path, file, archive, downloads)}", flush=True)
                break
        else:
            tried = "; ".join(failures) or "no source is left"
            raise WorkflowError(
                f"{file.name} ({role}) could not be fetched ({tried}); set MNISTFLOW_SOURCE to a folder or an address "
                "that has it, or list one under `sources` in datasets.yaml."
            )


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _get(source: str, file: File, archive: File | None, downloads: Path) -> Path:
    """The file from one source, as it is or from the archive.

    Raises:
        SourceError: the source did not give the right file.
    """
    folder = Path(source.removeprefix("file://"))
    if archive is None:
        return _download(source, file, downloads) if _is_url(source) else _search(folder, file)
    if _is_url(source):
        return _extract(_download(source, archive, downloads), file, downloads)
    try:
        return _search(folder, file)
    except SourceError:
        return _extract(_search(folder, archive), file, downloads)


def _extract(archive: Path, file: File, downloads: Path) -> Path:
    """The file out of a ZIP file, in whichever folder of it, into `downloads`.

    Raises:
        SourceError: it is no ZIP file, or does not have the file.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            members = {Path(name).name: name for name in packed.namelist()}
            name = next((name for name in _spellings(file.name) if name in members), None)
            if name is None:
                raise SourceError(f"no file {file.name} in {archive.name}", is_final=True)
            downloads.mkdir(parents=True, exist_ok=True)
            with replacing(downloads / name) as temporary:
                temporary.write_bytes(packed.read(members[name]))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise SourceError(f"{archive.name} is no ZIP file, or damaged ({error})") from error
    return _search(downloads, file)


def _unchecked(path: Path, file: File, archive: File | None, downloads: Path) -> str:
    """What a file is that no published checksum, its own or its archive's, was held against."""
    import pooch

    if file.checksum() or (archive and archive.checksum() and path.parent == downloads):
        return ""
    return f", not checked, because datasets.yaml has no checksum of it; SHA-256 {pooch.file_hash(str(path))}"


def _search(folder: Path, file: File) -> Path:
    """The file in a folder, under any of its usual names, compressed or not; its checksum decides, if it has one.

    Raises:
        SourceError: the folder is not there, or holds no file with the right checksum.
    """
    import pooch

    folder = root() / folder.expanduser()
    if not folder.is_dir():
        raise SourceError("no such folder", is_final=True)
    candidates = [path for name in _spellings(file.name) for path in (folder / name, folder / name / name)]
    present = [path for path in candidates if path.is_file()]
    for path in present:
        if file.checksum() is None or _is_right(path, file) or _is_same_content(path, file):
            return path
    if present and file.md5:
        raise SourceError(f"{present[0].name} has MD5 {pooch.file_hash(str(present[0]), 'md5')}, not {file.md5}")
    if present:
        raise SourceError(f"{present[0].name} has SHA-256 {pooch.file_hash(str(present[0]))}, not {file.sha256}")
    raise SourceError(f"no file {file.name} in it")


def _spellings(name: str) -> list[str]:
    """The names under which a file is published: with and without .gz, with -idx and .idx."""
    plain = name.removesuffix(".gz")
    dotted = plain.replace("-idx", ".idx")
    return [f"{plain}.gz", plain, dotted, f"{dotted}.gz"]


def _is_right(path: Path, file: File) -> bool:
    """Whether a file is the published one, or its content."""
    import pooch

    if file.md5 and pooch.file_hash(str(path), "md5") == file.md5:
        return True
    return pooch.file_hash(str(path)) in (file.sha256, file.unpacked)


def _is_same_content(path: Path, file: File) -> bool:
    """Whether a gzip file that was compressed anew holds the right content."""
    if path.suffix != ".gz" or file.unpacked is None:
        return False
    try:
        with gzip.open(path) as content:
            return hashlib.sha256(content.read()).hexdigest() == file.unpacked
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return False


def _download(source: str, file: File, downloads: Path) -> Path:
    """The downloaded file, checked by its hash; from `downloads` if it is there already.

    Raises:
        SourceError: the source did not give the right file.
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
        raise SourceError(f"no answer for {SILENCE} s", is_final=True) from error
    except requests.exceptions.HTTPError as error:
        status = error.response.status_code if error.response is not None else "error"
        raise SourceError(f"HTTP {status}") from error
    except requests.exceptions.ConnectionError as error:
        raise SourceError("can't be reached", is_final=True) from error
    except (requests.RequestException, ValueError) as error:  # ValueError: the hash is another
        raise SourceError(str(error).partition("\n")[0][:200]) from error


@contextmanager
def _within(seconds: float) -> Iterator[None]:
    """Raise a SourceError when the block takes longer; the timeout of requests only bounds the silence."""

    def give_up(*_: object) -> None:
        raise SourceError(f"not complete after {seconds:g} s", is_final=True)

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _unpack(path: Path, target: Path) -> None:
    """Write the content of a file, compressed or not, to `target`.

    Raises:
        SourceError: it is compressed and damaged.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with naming(target), opened(path, "rb") as source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise SourceError(f"{path} is damaged ({error}); delete it") from error

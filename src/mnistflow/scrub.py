"""Look DVC's cache over for damage: `python -m mnistflow.scrub`.

DVC takes what lies in its cache for whole and brings it back as it is. Here, all that dvc.lock names is hashed again. A
damaged object is replaced by the output in this folder if that is whole; else both are deleted, and `dvc repro` makes
them anew, or pulls them.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo

from mnistflow import cli
from mnistflow.workspace import WorkflowError, md5, replacing


def scrub() -> Iterator[str]:
    """Mend or delete what is damaged; yields a sentence for each output that it touched.

    Raises:
        WorkflowError: DVC can't read dvc.yaml or dvc.lock.
    """
    try:
        with Repo() as repo:
            cache = repo.cache.local
            outs = [out for stage in repo.index.stages for out in stage.outs if out.use_cache and out.hash_info]
            for out in outs:
                damaged = [pair for pair in _objects(cache, out) if pair[0].is_file() and _is_damaged(pair[0])]
                if not damaged:
                    continue
                if all(file.is_file() and md5(file) == _name(kept) for kept, file in damaged):
                    for kept, file in damaged:
                        with replacing(kept) as temporary:
                            shutil.copyfile(file, temporary)
                        kept.chmod(0o444)  # as DVC leaves its objects
                    yield f"{out.def_path} is damaged in DVC's cache; mended from the one in this folder"
                else:
                    for kept, _ in damaged:
                        kept.unlink()
                    _delete(Path(out.def_path))
                    yield f"{out.def_path} is damaged in DVC's cache; deleted, to be made anew"
    except DvcException as error:
        raise WorkflowError(f"DVC can't read this project: {error}; `dvc status` says more.") from error


def _objects(cache: Any, out: Any) -> Iterator[tuple[Path, Path]]:
    """What the cache may hold of an output, each with the file of this folder that it is the content of."""
    kept, place = Path(cache.oid_to_path(out.hash_info.value)), Path(out.def_path)
    yield kept, place
    if out.hash_info.isdir and kept.is_file() and not _is_damaged(kept):
        for entry in json.loads(kept.read_bytes()):
            yield Path(cache.oid_to_path(entry["md5"])), place / entry["relpath"]


def _name(kept: Path) -> str:
    """The hash under which an object is kept: its first two digits are its folder's name."""
    return kept.parent.name + kept.name.removesuffix(".dir")


def _is_damaged(kept: Path) -> bool:
    return md5(kept) != _name(kept)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main() -> None:
    """Scrub, and say what was found."""
    for sentence in scrub():
        print(sentence)


if __name__ == "__main__":
    cli.run(main)

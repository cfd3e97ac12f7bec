"""What was trained and evaluated before, each under a key of everything that it depends on.

DVC knows whole stages, and a stage is a study: for one edited run it would train the study's other runs again. So every
finished training and evaluation also lies here, and a stage computes only what is missing.

The store is a folder of DVC's cache. Git ignores it there, it outlives a workspace (the temporary ones of
`dvc exp run --queue` use the cache of the repository they came from), and machines that share a cache share it too.
Nothing but time is lost if it is deleted.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from dvc.config import Config


def folder() -> Path:
    """Where the store of the repository in the current folder lies."""
    cache = Config(".dvc").get("cache", {}).get("dir")
    return Path(cache or ".dvc/cache") / "contextssl"


def key(dependencies: Mapping) -> str:
    """Names an entry by what it depends on: plain numbers, texts, lists and mappings of them."""
    text = json.dumps(dependencies, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def find(kind: str, name: str) -> Path | None:
    """The folder of a finished entry, None if there is none; one whose files have lost bytes is removed."""
    entry = folder() / kind / name
    if not entry.is_dir():
        return None
    try:
        sizes = json.loads((entry / "key.json").read_text(encoding="utf-8"))["files"]
        whole = all((entry / file).stat().st_size == size for file, size in sizes.items())
    except (OSError, ValueError, KeyError):
        whole = False
    if not whole:
        shutil.rmtree(entry, ignore_errors=True)
    return entry if whole else None


def add(kind: str, name: str, dependencies: Mapping, write: Callable[[Path], None]) -> Path:
    """Let `write` fill a folder and make it an entry; it appears whole or not at all.

    ``key.json`` in it keeps the dependencies, so that a reader can see what an entry is, and the sizes of its files. If
    another process has made the same entry meanwhile, that one stays: it is the same.
    """
    entry = folder() / kind / name
    part = entry.with_name(f"{name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        write(part)
        sizes = {path.name: path.stat().st_size for path in part.iterdir()}
        told = json.dumps({"dependencies": dependencies, "files": sizes}, indent=1, sort_keys=True)
        (part / "key.json").write_text(told + "\n", encoding="utf-8")
        try:
            part.rename(entry)
        except OSError:
            if not entry.is_dir():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return entry


def checkpoint(name: str) -> Path:
    """Where an unfinished training keeps what it resumes from."""
    path = folder() / "checkpoints" / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path

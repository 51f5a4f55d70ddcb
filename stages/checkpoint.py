"""Checkpoints that survive kill -9: one folder a training, locked while in use; only sealed checkpoints count.

checkpoints/<fingerprint>/lock             held by the running trainer, names its process
checkpoints/<fingerprint>/checkpoint-40/   sealed: complete and on disk
checkpoints/<fingerprint>/checkpoint-60/   without its seal: was being written when the process died; removed
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stages.records import InputError

SEAL = "sealed"


def fingerprint(parts: Mapping[str, Any]) -> str:
    """A short name for everything that decides the adapter's bytes; parts must be plain JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:20]


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process, which makes it; raises InputError naming the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise InputError(
                f"this very training already runs, as process {lock.read().strip()} (it holds {folder})\n"
                "hint: wait for it, or end it with `kill`; this one then goes on from its last checkpoint"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def seal(checkpoint: Path) -> None:
    """Put the checkpoint's files on disk, then mark it complete."""
    for path in (*sorted(checkpoint.iterdir()), checkpoint):
        _sync(path)
    (checkpoint / SEAL).touch()
    _sync(checkpoint)


def prune(folder: Path, keep: Collection[str]) -> None:
    """Remove all checkpoints but those of these names; each loses its seal first, so that no half of it counts."""
    for path in folder.glob("checkpoint-*"):
        if path.name not in keep:
            (path / SEAL).unlink(missing_ok=True)
            shutil.rmtree(path)


def newest(folder: Path) -> Path | None:
    """The sealed checkpoint of the highest step; unsealed ones are removed."""
    sealed = [path for path in folder.glob("checkpoint-*") if (path / SEAL).exists()]
    prune(folder, {path.name for path in sealed})
    return max(sealed, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def discard(folder: Path) -> None:
    """Remove a folder of checkpoints: renamed first, so that no half of it is ever resumed from."""
    aside = folder.with_suffix(".done")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

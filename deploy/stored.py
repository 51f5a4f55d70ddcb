"""What dvc.lock and the .dvc files name, compared with what the store holds: byte counts and hashes, streamed.

DVC itself takes the `.dir` object of a folder as proof of all its files, so it never misses one that is lost.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dvc.config import NoRemoteError
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc_data.hashfile.db import HashFileDB, get_index
from tqdm import tqdm

from deploy.preflight import explain, reach
from stages.records import InputError

READERS = 8
CHUNK, BLOCK = 1 << 20, 4 << 20  # bytes read at once, and asked of the store at once
SHOWN = 20
LOST = "lost"
REPAIR = "`python -m deploy.remote check --repair`, where the data was made or pulled before"


@dataclass
class Named:
    """An object: the files of the repository it stands for, its bytes where known, the folders it is in."""

    oid: str
    files: list[str] = field(default_factory=list)
    size: int | None = None
    folders: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Fault:
    """An object that is not as it is named."""

    named: Named
    found: str

    def __str__(self) -> str:
        return f"{self.found}: {', '.join(self.named.files)} (object {self.named.oid})"


@dataclass(frozen=True)
class Report:
    """All objects that are named, those at fault, and the outputs that have no version yet."""

    objects: dict[str, Named]
    faults: list[Fault]
    unversioned: list[str]
    bytes: int


def check(repo: Repo) -> None:
    """Print that all is there and intact; raises InputError that names each file which is not."""
    report = compare(repo)
    if report.faults:
        nothing = len(report.faults) == len(report.objects) and all(fault.found == LOST for fault in report.faults)
        cure = "`dvc push`: nothing was pushed yet" if nothing else REPAIR
        raise InputError(
            f"{_address(repo)}: {len(report.faults)} of {len(report.objects)} objects are not as they are named\n"
            f"{_list(report.faults)}\n"
            f"hint: {cure}"
        )
    print(_all_well(repo, report))


def repair(repo: Repo) -> None:
    """Push anew what is lost or corrupted; raises InputError, and changes nothing, if the cache cannot heal it."""
    report = compare(repo)
    if report.faults:
        sick = {fault.named.oid for fault in report.faults}
        stale = sorted(sick | {folder for oid in sick for folder in report.objects[oid].folders})
        _require_healthy(repo, [report.objects[oid] for oid in stale])
        _replace(repo, stale)
        for fault in report.faults:
            print(f"pushed again, was {fault}")
        report = compare(repo)
    if report.faults:
        raise InputError(f"{_address(repo)}: still not as named after the repair\n{_list(report.faults)}")
    print(_all_well(repo, report))


def compare(repo: Repo) -> Report:
    """Read every named object from the store."""
    store, cache = _store(repo), repo.cache.local
    objects, unversioned, total = _name_outputs(repo)
    sizes: list[int] = []
    with tqdm(total=total, unit="B", unit_scale=True, desc="checking", disable=not sys.stderr.isatty()) as bar:
        look = partial(_look, repo, store, lambda size: (sizes.append(size), bar.update(size)))
        folders = [named for oid, named in objects.items() if oid.endswith(".dir")]
        faults = look(folders)
        sick = {fault.named.oid for fault in faults}
        for folder in folders:
            source = cache if folder.oid in sick else store
            _name_contents(objects, folder, _read_folder(source, folder.oid))
        faults += look([named for oid, named in objects.items() if not oid.endswith(".dir")])
        return Report(objects, faults, unversioned, sum(sizes))


# --- what is named


def _name_outputs(repo: Repo) -> tuple[dict[str, Named], list[str], int]:
    objects: dict[str, Named] = {}
    unversioned, total = [], 0
    for out in repo.index.outs:
        if not out.use_cache:
            continue
        path = repo.fs.relpath(out.fs_path, repo.root_dir)
        if not out.hash_info:
            unversioned.append(path)
            continue
        named = objects.setdefault(out.hash_info.value, Named(out.hash_info.value))
        named.files.append(path)
        named.size = None if out.hash_info.isdir else out.meta.size
        total += out.meta.size or 0
    return objects, unversioned, total


def _name_contents(objects: dict[str, Named], folder: Named, entries: Iterable[dict[str, Any]]) -> None:
    for entry in entries:
        named = objects.setdefault(entry["md5"], Named(entry["md5"]))
        named.files += [f"{path}/{entry['relpath']}" for path in folder.files]
        named.folders.add(folder.oid)


def _read_folder(source: HashFileDB, oid: str) -> list[dict[str, Any]]:
    """The entries of a `.dir` object; none where this copy of it is not what its name says."""
    try:
        data = source.fs.cat_file(source.oid_to_path(oid))
    except FileNotFoundError:
        return []
    return json.loads(data) if hashlib.md5(data).hexdigest() == oid.removesuffix(".dir") else []


# --- what is there


def _store(repo: Repo) -> HashFileDB:
    try:
        store = repo.cloud.get_remote().odb
    except NoRemoteError as error:
        raise InputError(
            "expected a default remote, found none\nhint: `python -m deploy.remote add URL` makes one"
        ) from error
    reach(_config(repo))
    return store


def _look(repo: Repo, store: HashFileDB, count: Callable[[int], Any], wanted: list[Named]) -> list[Fault]:
    store.fs.fs.invalidate_cache()
    with ThreadPoolExecutor(READERS) as pool:
        try:
            found = list(pool.map(lambda named: examine(store, named, count), wanted))
        except Exception as error:  # each file system has its own
            pool.shutdown(cancel_futures=True)
            raise explain(error, "read", _config(repo)) from error
    return [Fault(named, said) for named, said in zip(wanted, found, strict=True) if said]


def examine(source: HashFileDB, named: Named, count: Callable[[int], Any] = lambda size: None) -> str:
    """Empty if the object is whole, else what is wrong with it."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    try:
        with source.fs.fs.open(source.oid_to_path(named.oid), "rb", block_size=BLOCK) as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
                size += len(chunk)
                count(len(chunk))
    except FileNotFoundError:
        return LOST
    if named.size not in (None, size):
        return f"corrupted ({size:,} bytes for {named.size:,})"
    return "" if digest.hexdigest() == named.oid.removesuffix(".dir") else "corrupted"


# --- healing


def _require_healthy(repo: Repo, wanted: list[Named]) -> None:
    faults = [Fault(named, said) for named in wanted if (said := examine(repo.cache.local, named))]
    if faults:
        raise InputError(
            f"the cache of this clone cannot heal the store; nothing was changed\n{_list(faults)}\n"
            "hint: run it in a clone that has these files, or make them anew with `dvc repro` (raw text: `dvc add`)"
        )


def _replace(repo: Repo, oids: list[str]) -> None:
    """Delete the objects and push; DVC would skip what its notes, or a folder's `.dir`, say is there."""
    store = _store(repo)
    for oid in sorted(oids, key=lambda oid: not oid.endswith(".dir")):  # a folder first: it must not vouch meanwhile
        if store.exists(oid):
            store.delete(oid)
    with closing(get_index(store)) as notes:
        notes.clear()
    try:
        repo.push()
    except DvcException as error:
        raise InputError(f"the push did not end: {error}\nhint: run the same command again; nothing is lost") from error


# --- words


def _config(repo: Repo) -> dict[str, Any]:
    return repo.config["remote"][repo.config["core"]["remote"]]


def _address(repo: Repo) -> str:
    return _config(repo)["url"]


def _list(faults: list[Fault]) -> str:
    more = [f"  … and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
    return "\n".join([*(f"  {fault}" for fault in faults[:SHOWN]), *more])


def _all_well(repo: Repo, report: Report) -> str:
    files = sum(len(named.files) for oid, named in report.objects.items() if not oid.endswith(".dir"))
    missing = f"; no version yet: {', '.join(report.unversioned)}" if report.unversioned else ""
    return f"{_address(repo)}: {files} files, {report.bytes:,} bytes: all there, all intact{missing}"

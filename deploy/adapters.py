"""A folder or the name of an experiment in, the folder of a trained adapter out."""

import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.records import InputError
from stages.settings import CONFIG

DEFAULT = "models/adapter"
FETCHED = Path("exports/adapters")


def find_adapter(name: str = DEFAULT) -> Path:
    """The adapter's folder; an experiment's is fetched once into exports/adapters/<commit>."""
    folder = Path(name)
    if (folder / CONFIG).is_file():
        return folder
    commit = resolve(name)
    if folder.exists() or commit is None:
        raise InputError(
            f"expected an adapter's folder or the name of an experiment, got {name!r}\n"
            "hint: `dvc repro` trains it, `dvc pull models/adapter` fetches it, `dvc exp show` lists experiments"
        )
    target = FETCHED / commit[:12]
    return target if target.is_dir() else fetch(commit, target)


def resolve(name: str) -> str | None:
    """The commit of an experiment, a tag or a branch; None if git knows none of that name.

    Of experiments that share a name on several commits it is the one made last.
    """
    for reference in (_experiment(name), name):
        if reference and not reference.startswith("-"):
            done = _git("rev-parse", "--verify", "--quiet", f"{reference}^{{commit}}")
            if done:
                return done
    return None


def fetch(commit: str, target: Path) -> Path:
    """Bring the adapter of a commit from the cache or the remote, aside and then into place."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as aside:
        command = ["dvc", "get", ".", DEFAULT, "--rev", commit, "-o", f"{aside}/adapter", "-q"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise InputError(
                f"expected {DEFAULT} of {commit[:12]}, got: {done.stderr.strip()}\nhint: `dvc exp pull` it first"
            )
        Path(aside, "adapter").rename(target)
    return target


def _experiment(name: str) -> str | None:
    found = [
        line
        for line in _git("for-each-ref", "--sort=creatordate", "--format=%(refname)", "refs/exps").splitlines()
        if line.endswith(f"/{name}")
    ]
    return found[-1] if found else None


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True).stdout.strip()


def elsewhere(decoding: Mapping[str, Any]) -> dict[str, Any]:
    """The decoding for engines whose repetition penalty counts the prompt too: they do without one.

    It would lower her own names, and the token that ends each earlier reply: of 14 greedy replies of the sample's
    adapter 9 changed, some to go on without end.
    """
    return {**decoding, "repetition_penalty": 1.0}

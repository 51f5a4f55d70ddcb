"""`python -m deploy.lock`: dvc.lock made whole again.

DVC empties its lock and writes it anew after every stage. A kill or a full disk in between leaves a part of it, which
the next run refuses (`'./dvc.lock' validation failed`). The part is set aside and git's copy put back; what has run
since comes out of DVC's run cache, in no time. `make repro` begins with this.
"""

import os
import subprocess
from pathlib import Path

import voluptuous
import yaml
from dvc.schema import COMPILED_LOCKFILE_SCHEMA

from stages import cli
from stages.records import InputError

LOCK = Path("dvc.lock")
PART = Path("dvc.lock.part")


def whole(text: str) -> bool:
    """Whether DVC would read it."""
    try:
        COMPILED_LOCKFILE_SCHEMA(yaml.safe_load(text))
    except (yaml.YAMLError, voluptuous.Invalid):
        return False
    return True


def mend() -> str | None:
    """Put a lock that DVC would refuse aside, git's in its place; returns what was done."""
    if not LOCK.exists() or whole(LOCK.read_text(encoding="utf-8", errors="replace")):
        return None
    if _git("ls-files", "--unmerged", "--", LOCK).stdout:
        raise InputError(
            f"expected {LOCK} as DVC writes it, got a merge that is not finished\n"
            f"hint: `git checkout --ours {LOCK}` (or --theirs), `git add {LOCK}`, then again"
        )
    os.replace(LOCK, PART)
    restored = _git("checkout", "--", LOCK).returncode == 0  # DVC adds each lock it has written to git's index
    return f"{LOCK} was cut short: {'git has it back' if restored else 'it begins anew'}; {PART} is what was left"


def _git(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)


def main() -> None:
    """Say what was done, or nothing."""
    if done := mend():
        print(done)


if __name__ == "__main__":
    cli.run(main)

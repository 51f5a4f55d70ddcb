"""setup.sh and the Makefile with an environment that has nothing to install: what is refused, what is only said."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
COPIED = ("setup.sh", "Makefile", "requirements.txt", "requirements-embedded.txt", "constraints.txt")


@pytest.fixture
def clone(tmp_path):
    """The files of the set-up beside an environment whose python only says its own name."""
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in COPIED:
        shutil.copy(ROOT / name, folder)
    program(folder / ".venv" / "bin" / "python", 'echo "$0 $*"')
    (folder / ".venv" / "pyvenv.cfg").write_text("")
    return folder


def program(path: Path, does: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{does}\n")
    path.chmod(0o755)


def run(folder: Path, *command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{folder / 'tools'}:{os.environ['PATH']}"}
    environment.pop("VENV", None)
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("awk", "warning"),
    [
        ("echo 3", "warning: 3 GB of memory are free; training the embedded model takes 6, `make chat` takes 3\n"),
        ("echo 7", ""),
        ("echo cannot open >&2; exit 2", ""),  # as where there is no /proc/meminfo
    ],
)
def test_little_memory_or_memory_unknown_ends_no_installation(clone, awk, warning):
    program(clone / "tools" / "awk", f'case "$*" in *MemAvailable*) {awk};; *) echo 99;; esac')
    done = run(clone, "./setup.sh")
    assert (done.returncode, done.stderr) == (0, warning)
    assert (clone / ".venv" / ".installed").is_file()


def test_little_disk_ends_the_installation(clone):
    program(clone / "tools" / "awk", "echo 7")
    done = run(clone, "./setup.sh")
    assert done.returncode == 1 and "expected 8 GB of free disk" in done.stderr


@pytest.mark.parametrize("place", [".venv", "../elsewhere", "/"])
def test_make_uses_the_environment_that_was_named(clone, place):
    """Relative to the clone or absolute, as the hint of setup.sh invites."""
    named = place if place != "/" else str(clone.parent / "absolute")
    python = (clone / named / "bin" / "python").resolve()
    program(python, 'echo "$0 $*"')
    done = run(clone, "make", "-s", "-o", "env", "chat", f"VENV={named}")
    assert done.stdout == f"{python} -m deploy.chat\n"

"""The real pipeline made small: the repository's own files, three script files, a base model of two layers.

`make_pipeline(folder)` writes a repository in which `dvc repro` takes seconds; run it from the top of this one.
"""

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.characters import make_base

ROOT = Path(__file__).parent.parent
BASE = "bases/tiny"  # inside the repository, out of git: as a downloaded model would lie
SCRIPTS = ("01_spring.txt", "02_spring.docx", "04_autumn.rpy")
SMALL: dict[str, dict[str, Any]] = {
    "train": {"base_model": BASE, "rank": 2, "epochs": 2},
    "evaluate": {"held_out_replies": 4, "chat_replies": 2, "chat_probes": 2, "ranked_turns": 2, "draws": 100},
}
TOKENS = 4  # a reply


def make_pipeline(folder: Path, environment: Mapping[str, str]) -> Path:
    """Copy what git tracks, shrink it, commit it."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for path in (folder / "raw/sample/script").iterdir():
        if path.name not in SCRIPTS:
            path.unlink()
    shrink(folder / "params.yaml")
    make_base(folder / BASE)
    with (folder / ".gitignore").open("a", encoding="utf-8") as ignored:
        ignored.write("/bases/\n")
    commit(folder, environment, "small", init=True)
    return folder


def tracked() -> list[str]:
    """The files of this repository, as they lie in the working tree; no results."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = [name for name in listed.split("\0") if name and not name.startswith("reports/") and name != "dvc.lock"]
    return [name for name in names if (ROOT / name).is_file()]


def shrink(path: Path) -> None:
    """Few tokens, few replies."""
    yaml = YAML()
    params = yaml.load(path.read_text(encoding="utf-8"))
    for section, values in SMALL.items():
        params[section] |= values
    params["evaluate"]["max_new_tokens"] = params["train"]["decoding"]["max_new_tokens"] = TOKENS
    yaml.dump(params, path)


def commit(folder: Path, environment: Mapping[str, str], message: str, *, init: bool = False) -> None:
    """Commit all that git does not ignore."""
    commands = ["init -q -b main"] * init + ["add -A", f"commit -q -m {message}"]
    for command in commands:
        subprocess.run(["git", *command.split()], cwd=folder, env=environment, check=True, capture_output=True)


def model_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """One thread, offline, the interpreter that runs the tests."""
    return {**environment, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
            "PATH": environment.get("PATH", os.environ["PATH"])}  # fmt: skip

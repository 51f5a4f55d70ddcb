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


def make_pipeline(folder: Path, environment: Mapping[str, str], work: str = "sample") -> Path:
    """Copy what git tracks, shrink it, commit it; a work of another name is the sample as a user's own, out of git."""
    for name in tracked():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    for path in (folder / "raw/sample/script").iterdir():
        if path.name not in SCRIPTS:
            path.unlink()
    shrink(folder / "params.yaml", work)
    make_base(folder / BASE)
    with (folder / ".gitignore").open("a", encoding="utf-8") as ignored:
        ignored.write("/bases/\n")
    run(folder, environment, "git", "init", "-q", "-b", "main")
    if work != "sample":
        (folder / "raw" / "sample").rename(folder / "raw" / work)
        run(folder, environment, "dvc", "add", "-q", f"raw/{work}")
    commit(folder, environment, "small")
    return folder


def tracked() -> list[str]:
    """The files of this repository, as they lie in the working tree; no results."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = [name for name in listed.split("\0") if name and not name.startswith("reports/") and name != "dvc.lock"]
    return [name for name in names if (ROOT / name).is_file()]


def shrink(path: Path, work: str) -> None:
    """Few tokens, few replies."""
    yaml = YAML()
    params = yaml.load(path.read_text(encoding="utf-8"))
    for section, values in SMALL.items():
        params[section] |= values
    params["evaluate"]["max_new_tokens"] = params["train"]["decoding"]["max_new_tokens"] = TOKENS
    params["extract"]["source"], params["format"]["work"] = f"raw/{work}/script", f"raw/{work}"
    yaml.dump(params, path)


def commit(folder: Path, environment: Mapping[str, str], message: str) -> None:
    """Commit all that git does not ignore."""
    run(folder, environment, "git", "add", "-A")
    run(folder, environment, "git", "commit", "-q", "-m", message)


def run(folder: Path, environment: Mapping[str, str], *command: str) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=600
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def model_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """One thread, offline, the interpreter that runs the tests."""
    return {**environment, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
            "PATH": environment.get("PATH", os.environ["PATH"])}  # fmt: skip

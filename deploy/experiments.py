"""Settings and seeds in, finished experiments out: each run is a DVC experiment on the present commit.

A run happens in a copy of what git and DVC track (`dvc exp run --temp`), so an input that neither knows is refused. A
finished one of the same name, parameters and code is not run again; a failed one does not stop the rest.
"""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dvc.api import DVCFileSystem
from ruamel.yaml import YAML

from stages.duplicates import near_duplicate_groups
from stages.params import read_section
from stages.records import InputError

METRICS, DENOISED, CURVES = "reports/metrics.json", "reports/denoise.json", "reports/train.tsv"
TRAIN, EXAM = "processed/dataset/train.jsonl", "processed/exam.jsonl"
LEAK, LEAK_CHARACTERS = 0.8, 20  # dialogues this similar, if they are long enough not to be so by chance
yaml = YAML(typ="safe", pure=True)


class Setting(NamedTuple):
    """A row of the table: its name, the parameters that make it, and the name of its control, if it has one."""

    name: str
    overrides: dict[str, Any]
    control: str | None = None


class Run(NamedTuple):
    """One finished experiment of a setting and a seed, as its commit has it; `leaks` counts held-out text in train."""

    setting: str
    seed: int
    metrics: dict[str, Any]
    denoised: dict[str, Any]
    params: dict[str, Any]
    steps: int
    leaks: int


@dataclass(frozen=True)
class Plan:
    """What is compared: settings (the first is the baseline), seeds, and what all of them share."""

    settings: list[Setting]
    seeds: list[int]
    shared: dict[str, Any]
    varied: frozenset[str] = frozenset()


Check = Callable[[Sequence[Run], Plan], None]  # raises InputError for runs that make no fair comparison
Start = Callable[[str, dict[str, Any]], str | None]  # runs one experiment: its name and overrides; words of a failure


def with_overrides(params: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """The parameters with some values replaced."""
    changed = json.loads(json.dumps(params))
    for dotted, value in overrides.items():
        *path, last = dotted.split(".")
        place = changed
        for part in path:
            place = place.setdefault(part, {})
        place[last] = value
    return changed


def overrides_of(plan: Plan, setting: Setting, seed: int) -> dict[str, Any]:
    """All that one run changes; the control is drawn anew with every seed."""
    return {**plan.shared, **setting.overrides, "train.seed": seed, "denoise.seed": seed}


def experiment_name(setting: Setting, seed: int, steps: Any) -> str:
    """A name that git takes as a reference; a digest stands for letters that it leaves out."""
    plain = re.sub(r"[^A-Za-z0-9]+", "-", setting.name).strip("-")
    if not setting.name.isascii():
        plain = f"{plain}-{hashlib.sha256(setting.name.encode()).hexdigest()[:8]}".strip("-")
    return f"{plain}-{steps}-seed{seed}" if steps else f"{plain}-seed{seed}"


# --- what git and DVC know


def git(*arguments: str) -> str:
    """What a git command prints; InputError with its words if it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"git {arguments[0]}: {done.stderr.strip()}\nhint: `make compare` runs in a git repository")
    return done.stdout


def inputs() -> list[str]:
    """The paths that a run reads and that are no stage's output."""
    read = [read_section("extract")["source"], read_section("format")["work"]]
    return ["stages", "dvc.yaml", *read]


def refuse_untracked(paths: Sequence[str]) -> None:
    """An experiment runs in a copy of what git (or DVC) tracks: an input that neither knows would be missing there."""
    untracked = git("ls-files", "--others", "--exclude-standard", "--", *paths, "params.yaml").splitlines()
    unknown = [path for path in paths if not git("ls-files", "--", path).strip() and not tracked_by_dvc(Path(path))]
    if untracked or unknown:
        listed = "\n".join(f"  {path}" for path in (*untracked, *unknown)[:20])
        raise InputError(
            f"compare: experiments run in a copy of what is tracked; these inputs are not:\n{listed}\n"
            "hint: `git add` them (they need no commit), or `dvc add` a script that must not be in git"
        )


def tracked_by_dvc(path: Path) -> bool:
    """Whether a .dvc file that git knows stands beside the path or beside a folder around it."""
    return any(git("ls-files", "--", pointer).strip() for pointer in pointers(path))


def pointers(path: Path) -> list[str]:
    """The .dvc files that would hold a path: its own and those of the folders around it."""
    return [f"{part}.dvc" for part in [path, *path.parents][:-1]]


def finished(name: str, params: dict[str, Any], paths: Sequence[str]) -> str | None:
    """The reference of an experiment of this name, these parameters, this code and text on the present commit."""
    ref = reference(name)
    if not ref or show_yaml(ref, "params.yaml") != params:
        return None
    read = [*paths, *(pointer for path in paths for pointer in pointers(Path(path)))]
    same = subprocess.run(["git", "diff", "--quiet", ref, "--", *read], capture_output=True).returncode == 0
    return ref if same and show(ref, METRICS) else None


def reference(name: str) -> str | None:
    """The reference of an experiment of this name on the present commit; None where there is none."""
    head = git("rev-parse", "HEAD").strip()
    ref = f"refs/exps/{head[:2]}/{head[2:]}/{name}"
    return ref if git("for-each-ref", ref).strip() else None


def show(ref: str, path: str) -> str:
    """A file of an experiment's commit; empty if it has none."""
    done = subprocess.run(["git", "show", f"{ref}:{path}"], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def show_yaml(ref: str, path: str) -> Any:
    """A YAML file of an experiment's commit."""
    return yaml.load(show(ref, path))


def start(name: str, overrides: dict[str, Any]) -> str | None:
    """Run one experiment to its end; the last lines it said if it failed.

    `--force` replaces an experiment of the same name, but would also run stages again that had finished before a stop.
    """
    force = ["--force"] if reference(name) else []
    changes = [part for key, value in overrides.items() for part in ("-S", assignment(key, value))]
    command = [sys.executable, "-m", "dvc", "exp", "run", "--temp", *force, "--name", name, *changes]
    done = subprocess.run(command, capture_output=True, text=True)
    return None if done.returncode == 0 else "\n".join((done.stdout + done.stderr).strip().splitlines()[-12:])


def assignment(key: str, value: Any) -> str:
    """A parameter and its value as Hydra reads them, which knows no \\u escapes."""
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


def run_all(plan: Plan, check: Check, start: Start = start) -> tuple[list[Run], list[str]]:
    """The runs that finished, now or before, and the names of those that failed; `check` sees each before the next."""
    params, paths = yaml.load(Path("params.yaml").read_text(encoding="utf-8")), inputs()
    runs, failed = [], []
    for seed in plan.seeds:
        for setting in plan.settings:
            overrides = overrides_of(plan, setting, seed)
            name = experiment_name(setting, seed, overrides.get("train.max_steps"))
            wanted = with_overrides(params, overrides)
            ref = finished(name, wanted, paths)
            say(f"{name}: {'finished before' if ref else 'runs'}")
            words = None if ref else start(name, overrides)
            ref = ref or finished(name, wanted, paths)
            if ref:
                runs.append(read_run(ref, setting.name, seed))
                check(runs, plan)
            else:
                failed.append(name)
                say(f"{name}: failed\n{words}")
    return runs, failed


def read_run(ref: str, setting: str, seed: int) -> Run:
    """What an experiment's commit says."""
    curves = show(ref, CURVES).splitlines()
    steps = max((int(line.split("\t")[0]) for line in curves[1:]), default=0)
    metrics, denoised = (json.loads(show(ref, path)) for path in (METRICS, DENOISED))
    files = DVCFileSystem(".", rev=git("rev-parse", ref).strip())
    train, exam = ([json.loads(line) for line in files.read_text(path).splitlines()] for path in (TRAIN, EXAM))
    return Run(setting, seed, metrics, denoised, show_yaml(ref, "params.yaml"), steps, len(leaked(train, exam)))


def say(text: str) -> None:
    """Progress, to stderr."""
    print(f"compare: {text}", file=sys.stderr, flush=True)


def leaked(train: Iterable[dict[str, Any]], exam: Iterable[dict[str, Any]]) -> list[str]:
    """The ids of training dialogues that are near duplicates of a held-out one."""
    spoken = [(row["id"], "".join(m["content"] for m in row["messages"] if m["role"] != "system")) for row in train]
    held = [
        "".join(piece["text"] for turn in row["turns"] for piece in turn["lines"])
        for row in exam
        if row["part"] == "dialogue" and row["split"] != "train"
    ]
    texts = [re.sub(r"[\W_]", "", text) for text in (*held, *(text for _, text in spoken))]
    groups = near_duplicate_groups([text if len(text) >= LEAK_CHARACTERS else "" for text in texts], LEAK)
    return [name for (name, _), group in zip(spoken, groups[len(held) :], strict=True) if group < len(held)]

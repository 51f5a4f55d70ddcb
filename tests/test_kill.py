"""Kill anywhere: `dvc repro` of the small pipeline is killed in every stage, and its disk fills up; run again, it ends
with the bytes of a run that nobody disturbed.

KILLS=24 python -m pytest -m slow tests/test_kill.py     more kills, spread over as many journeys as that takes
"""

import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pytest

from tests.faults import cached, make_environment, named_wrongly
from tests.pipeline import make_pipeline, model_environment, run

pytestmark = pytest.mark.slow
STAGES = ("extract", "filter", "denoise", "format", "train", "evaluate", "report")
WAYS = ("group", "dvc", "stage")
KILLS = int(os.environ.get("KILLS", "7"))
SEED = int(os.environ.get("KILL_SEED", "1"))
DISK = 64_000_000  # bytes
LEFT = (200_000, 900_000, 1_200_000, 150_000)  # free bytes, run after run
FULL = ("No space left", "the disk is full", "disk I/O error", "database or disk is full")  # system, stage, SQLite
PATIENCE = 300  # seconds for one run


class Repro:
    """A running `dvc repro` in a process group of its own, and what it has said so far."""

    def __init__(self, where: Path, environment: dict[str, str]) -> None:
        self.where, self.said, self.seen = where, [], {}
        run(where, environment, "python", "-m", "deploy.lock")  # as `make repro` does
        self.process = subprocess.Popen(
            ["dvc", "repro"], cwd=where, env=environment, text=True, start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith("Running stage "):
                self.seen[line.split("'")[1]] = time.monotonic()

    def wait(self) -> int:
        """The exit status; everything of it is gone afterwards."""
        try:
            code = self.process.wait(PATIENCE)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.reader.join()
        return code

    def reaches(self, stage: str) -> str | None:
        """Wait until the stage, or one after it, begins; None if the run ends before."""
        rest = STAGES[STAGES.index(stage) :]
        while True:
            ended = self.process.poll() is not None
            begun = [name for name in rest if name in self.seen]
            if begun or ended:
                return begun[0] if begun else None
            time.sleep(0.005)

    def linger(self, stage: str, seconds: float) -> None:
        """Let the stage work for so long, or until the next one begins: today's machine may be faster than it was."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and list(self.seen)[-1] == stage and self.process.poll() is None:
            time.sleep(0.005)

    def kill(self, way: str) -> bool:
        """Kill -9 the group, DVC alone or the stage alone; False if the run has ended by itself."""
        while self.process.poll() is None:
            if way == "group":
                os.killpg(self.process.pid, signal.SIGKILL)
                return True
            if way == "dvc":
                self.process.kill()
                return True
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    child.kill()
                    return True
        return False


def outputs(where: Path) -> dict[str, bytes]:
    """All that the stages write, dvc.lock, and whatever else lies about in those folders."""
    files = [path for part in ("processed", "models", "reports") for path in sorted((where / part).rglob("*"))]
    return {
        path.relative_to(where).as_posix(): path.read_bytes() for path in [*files, where / "dvc.lock"] if path.is_file()
    }


def orphans(where: Path) -> list[str]:
    """Processes that still work in the repository."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd().startswith(str(where)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
    return found


def wait_for_quiet(where: Path) -> None:
    """What was killed, and what belonged to it, must be gone within seconds."""
    end = time.monotonic() + 30
    while orphans(where):
        assert time.monotonic() < end, f"still running: {orphans(where)}"
        time.sleep(0.05)


def assert_undisturbed(where: Path, calm: "Calm") -> None:
    """Every byte as if nothing had happened, the cache too, and DVC content with it."""
    got = outputs(where)
    assert sorted(got) == sorted(calm.outputs), "a file is missing, or half a file was left"
    assert [name for name in got if got[name] != calm.outputs[name]] == []
    assert [name for name, data in cached(where).items() if named_wrongly(name, data)] == []
    assert "up to date" in run(where, calm.environment, "dvc", "status")
    assert [path.name for path in (where / "checkpoints").glob("*/")] == [], "checkpoints end with the training"
    assert orphans(where) == []


class Calm:
    """The repository before its first run, and how a run goes that nobody disturbs."""

    def __init__(self, root: Path) -> None:
        self.environment = model_environment(make_environment(root, {})) | {"PYTHONUNBUFFERED": "1"}
        del self.environment["PYTHONPATH"]
        self.environment["SHELL"] = "/bin/sh"  # DVC starts stages through it; Debian's stays between unless told not to
        self.fresh = make_pipeline(root / "fresh", self.environment)
        self.where = root / "calm"
        shutil.copytree(self.fresh, self.where, symlinks=True)
        repro = Repro(self.where, self.environment)
        assert repro.wait() == 0, "".join(repro.said)
        starts = [*repro.seen.values(), time.monotonic()]
        assert tuple(repro.seen) == STAGES
        self.seconds = {stage: end - start for stage, start, end in zip(STAGES, starts, starts[1:], strict=False)}
        self.outputs = outputs(self.where)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    return Calm(tmp_path_factory.mktemp("kill"))


def journey(where: Path, calm: Calm, dice: random.Random, ways: list[str]) -> list[str]:
    """Kill once in each stage, run on each time; returns what was hit, and when (0 to 1 of the stage's time)."""
    hits = []
    for stage, way in zip(STAGES, ways, strict=True):
        repro, moment = Repro(where, calm.environment), dice.uniform(0, 0.9)
        begun = repro.reaches(stage)
        if begun:
            repro.linger(begun, moment * calm.seconds[begun])
        hit = repro.kill(way)
        repro.process.wait(PATIENCE)
        wait_for_quiet(where)  # before anything helps: whoever is left now would stay
        repro.wait()
        if hit:
            hits.append(f"{begun} {way} {moment:.2f}")
    return hits


@pytest.mark.parametrize("part", ["", "schema: '2.0'\nstages:\n  extract:\n    deps:\n    -"])
def test_a_lock_cut_short_is_mended_and_no_stage_runs_again(part, calm, tmp_path):
    where = tmp_path / "cut"
    shutil.copytree(calm.where, where, symlinks=True)
    (where / "dvc.lock").write_text(part, encoding="utf-8")
    repro = Repro(where, calm.environment)
    assert repro.wait() == 0, "".join(repro.said)
    assert repro.seen == {}
    assert_undisturbed(where, calm)
    assert (where / "dvc.lock.part").read_text(encoding="utf-8") == part


def test_where_dvc_reads_a_lock_cut_short_no_stage_runs_again_either(calm, tmp_path):
    where = tmp_path / "cut"
    shutil.copytree(calm.where, where, symlinks=True)
    lock = calm.outputs["dvc.lock"]
    (where / "dvc.lock").write_bytes(lock[: lock.index(b"  train:")])
    repro = Repro(where, calm.environment)
    assert repro.wait() == 0, "".join(repro.said)
    assert repro.seen == {}
    assert_undisturbed(where, calm)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of DISK bytes; skips the test where this user may not make one."""
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", folder], capture_output=True)
    if mount.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def fill(disk: Path, left: int) -> Path:
    """Write a file that leaves so many bytes free."""
    filler = disk / "filler"
    filler.write_bytes(bytes(max(0, shutil.disk_usage(disk).free - left)))
    return filler


@pytest.mark.parametrize("number", range(-(-KILLS // len(STAGES))))
def test_killed_in_every_stage_it_ends_with_the_same_bytes(number, calm, tmp_path):
    dice = random.Random(SEED * 1000 + number)
    ways = [WAYS[(number + at) % len(WAYS)] for at in range(len(STAGES))]
    where = tmp_path / "killed"
    shutil.copytree(calm.fresh, where, symlinks=True)
    hits = journey(where, calm, dice, ways)
    print(f"{len(hits)} kills: {', '.join(hits)}")
    assert len(hits) >= len(STAGES) - 1
    last = Repro(where, calm.environment)
    assert last.wait() == 0, "".join(last.said)
    assert_undisturbed(where, calm)


def test_on_a_full_disk_it_stops_and_ends_with_the_same_bytes_once_there_is_room(calm, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        where, stopped = disk / "full", []
        shutil.copytree(calm.fresh, where, symlinks=True)
        for left in LEFT:
            filler = fill(disk, left)
            repro = Repro(where, calm.environment)
            code, said = repro.wait(), "".join(repro.said)
            filler.unlink()
            if code:
                assert any(words in said for words in FULL), said
                stopped.append(f"{list(repro.seen)[-1:]} with {left:,} bytes")
            wait_for_quiet(where)
        print("stopped in", *stopped)
        assert len(stopped) >= 2
        last = Repro(where, calm.environment)
        assert last.wait() == 0, "".join(last.said)
        assert_undisturbed(where, calm)


@pytest.mark.parametrize(("stage", "left"), [("train", 40_000), ("evaluate", 4_000)])
def test_a_late_stage_on_a_full_disk_says_so_and_then_ends_with_the_same_bytes(stage, left, calm, tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        where = disk / "full"
        shutil.copytree(calm.fresh, where, symlinks=True)
        run(where, calm.environment, "dvc", "repro", "-q", STAGES[STAGES.index(stage) - 1])
        filler = fill(disk, left)
        done = subprocess.run(
            ["python", "-m", f"stages.{stage}"], cwd=where, env=calm.environment, capture_output=True, text=True
        )
        assert done.returncode == 1 and "error: the disk is full" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr
        filler.unlink()
        last = Repro(where, calm.environment)
        assert last.wait() == 0, "".join(last.said)
        assert_undisturbed(where, calm)


def test_a_stage_on_a_full_disk_says_so_plainly(calm, tmp_path):
    shutil.copytree(calm.fresh, tmp_path / "limited", symlinks=True)
    done = subprocess.run(
        ["prlimit", "--fsize=50000", "python", "-m", "stages.extract"],
        cwd=tmp_path / "limited", env=calm.environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: the disk is full") and "hint: free some" in done.stderr

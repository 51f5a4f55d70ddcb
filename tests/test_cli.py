"""How a stage ends: with the DVC that started it, whichever process that is; and with words for what stops it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMESPACE = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc")  # the command is its process 1
LATE_STAGE = """
import os, sys, time
from stages.cli import run
while os.getppid() == int(sys.argv[1]):
    time.sleep(0.01)
run(lambda: open("late", "w").close())
"""
ADOPTER = """
import ctypes, os, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER
code, own_group = sys.argv[1:]
subprocess.run(["sh", "-c", f"{sys.executable} {code} $$ &"], start_new_session=own_group == "True", check=True)
print(os.waitstatus_to_exitcode(os.wait()[1]))
"""


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "DVC_NO_ANALYTICS": "1", **more}


def require_namespace() -> None:
    if subprocess.run([*NAMESPACE, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets nobody make a process namespace")


def test_a_stage_runs_where_dvc_is_process_1(tmp_path):
    require_namespace()
    code = "import os; from stages.cli import run; run(lambda: open('parent', 'w').write(str(os.getppid())))"
    stages = {"one": {"cmd": f'exec {sys.executable} -c "{code}"', "outs": ["parent"]}}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": stages}), encoding="utf-8")
    for command in (["dvc", "init", "-q", "--no-scm"], [*NAMESPACE, "dvc", "repro", "-q"]):
        subprocess.run(command, cwd=tmp_path, env=environment(), check=True)
    assert (tmp_path / "parent").read_text() == "1"


@pytest.mark.parametrize(
    ("first", "own_group"),
    [((), True), (NAMESPACE, True), (NAMESPACE, False)],
    ids=["by a subreaper", "by process 1", "by process 1 of DVC's own group"],
)
def test_a_stage_whose_dvc_died_before_it_could_ask_to_end_with_it_ends(first, own_group, tmp_path):
    if first:
        require_namespace()
    (tmp_path / "stage.py").write_text(LATE_STAGE, encoding="utf-8")
    command = [*first, sys.executable, "-c", ADOPTER, "stage.py", str(own_group)]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment(DVC_STAGE="one"), check=True, capture_output=True, text=True, timeout=60
    )
    assert (int(done.stdout), done.stderr) == (-signal.SIGKILL, "")
    assert not (tmp_path / "late").exists(), "it went on"


def test_a_device_without_memory_left_is_told_with_what_saves_some(tmp_path):
    code = (
        "import torch; from stages.cli import run\ndef main(): raise torch.OutOfMemoryError('Tried to allocate 2 GiB')"
    )
    command = [sys.executable, "-c", f"{code}\nrun(main)"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1
    first, *hint = done.stderr.splitlines()
    assert first == "error: the device is out of memory: Tried to allocate 2 GiB"
    assert all(
        cure in "".join(hint)
        for cure in ("`python -m stages.train --plan`", "TRAIN_ACCUMULATION", "gradient_checkpointing", "quantize: nf4")
    ), hint


def test_an_error_of_our_own_keeps_its_traceback(tmp_path):
    command = [sys.executable, "-c", "from stages.cli import run; run(lambda: [][0])"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("Traceback") and "IndexError" in done.stderr

"""The project's own promises: deps equal imports, parameters fit, data stages stay light and deterministic."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.params import read_section

ROOT = Path(__file__).parent.parent
STAGES = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
DATA_STAGES = ("extract", "filter", "denoise", "format")


def module_of(stage: dict) -> Path:
    name = stage["cmd"].removeprefix("exec python -m ")
    return ROOT.joinpath(*name.split(".")).with_suffix(".py")


def imported(source: Path) -> set[Path]:
    """The repository's files that one file imports."""
    found = set()
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{source}: imports are absolute here"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            path = ROOT.joinpath(*name.split("."))
            found |= {p for p in (path.with_suffix(".py"), path / "__init__.py") if p.is_file() and p.stat().st_size}
    return found


def closure(source: Path) -> set[str]:
    seen, todo = set(), {source}
    while todo:
        seen |= todo
        todo = {new for old in todo for new in imported(old)} - seen
    return {path.relative_to(ROOT).as_posix() for path in seen}


def covers(dep: str, file: str) -> bool:
    return file == dep or file.startswith(f"{dep}/")


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_depends_on_exactly_the_code_it_imports(name):
    needed = closure(module_of(STAGES[name]))
    listed = [dep for dep in STAGES[name]["deps"] if dep.startswith("stages/")]
    assert sorted(f for f in needed if not any(covers(dep, f) for dep in listed)) == [], "imported, not in dvc.yaml"
    code = [dep for dep in listed if dep.endswith(".py") or (ROOT / dep / "__init__.py").is_file()]
    assert [dep for dep in code if not any(covers(dep, f) for f in needed)] == [], "in dvc.yaml, not imported"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_reads_its_inputs_from_an_earlier_stage(name):
    outputs = []
    for earlier, stage in STAGES.items():
        if earlier == name:
            break
        for key in ("outs", "metrics", "plots"):
            outputs += [next(iter(out)) if isinstance(out, dict) else out for out in stage.get(key, [])]
    data = [dep for dep in STAGES[name]["deps"] if not dep.startswith(("stages/", "${"))]
    assert [dep for dep in data if dep not in outputs] == []


@pytest.mark.parametrize("name", [name for name in STAGES if name != "report"])
def test_the_section_of_a_stage_fits_its_dataclass(name):
    module = importlib.import_module(f"stages.{name}")
    params = getattr(module, f"{name.capitalize()}Params")
    assert is_dataclass(params)
    assert sorted(read_section(name, ROOT / "params.yaml")) == sorted(field.name for field in fields(params))


def test_every_parameter_has_its_reason_beside_it():
    lines = (ROOT / "params.yaml").read_text(encoding="utf-8").splitlines()
    keys = [line for line in lines if line.startswith("  ") and not line.lstrip().startswith(("- ", "#"))]
    own = [line for line in keys if len(line) - len(line.lstrip()) == 2]
    assert [line for line in own if "#" not in line] == []


@pytest.mark.parametrize("name", DATA_STAGES)
def test_a_data_stage_never_imports_torch(name):
    code = f"import sys, stages.{name}; sys.exit(' '.join({{'torch', 'transformers'}} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def run_data_stages(folder: Path, **environment: str) -> dict[str, bytes]:
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "raw" / "sample", folder / "raw" / "sample")
    shutil.copy(ROOT / "params.yaml", folder)
    for name in DATA_STAGES:
        command = [sys.executable, "-m", f"stages.{name}"]
        done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    files = sorted([*(folder / "processed").rglob("*"), *(folder / "reports").rglob("*")])
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.is_file()}


def test_the_data_stages_write_the_same_bytes_everywhere(tmp_path):
    here = run_data_stages(tmp_path / "a", PYTHONHASHSEED="1", LC_ALL="C", TZ="UTC")
    there = run_data_stages(tmp_path / "深い", PYTHONHASHSEED="2", LC_ALL="C.UTF-8", TZ="Asia/Shanghai")
    assert list(here) == list(there)
    assert [name for name in here if here[name] != there[name]] == []
    assert "processed/dataset/train.jsonl" in here


def test_no_line_of_the_script_is_in_the_reports_that_git_keeps(tmp_path):
    outputs = run_data_stages(tmp_path / "a")
    spoken = [json.loads(row)["text"] for row in outputs["processed/lines.jsonl"].splitlines()]
    telling = [text for text in spoken if len(text) >= 10]
    kept = [name for name in outputs if name.startswith("reports/") and name.endswith(".json")]
    assert kept and telling
    for name in kept:
        report = outputs[name].decode()
        assert [text for text in telling if text in report] == [], name


def test_a_changed_line_reaches_the_data_set(tmp_path):
    before = run_data_stages(tmp_path / "a")
    script = tmp_path / "a" / "raw" / "sample" / "script" / "01_spring.txt"
    row = next(
        json.loads(r)
        for r in before["processed/dataset/train.jsonl"].splitlines()
        if "01_spring" in json.loads(r)["id"]
    )
    old = row["messages"][-1]["content"].split("\n")[0]
    text = script.read_text(encoding="utf-8")
    assert old in text
    script.write_text(text.replace(old, "我今天换了一块新的齿轮。"), encoding="utf-8")
    for name in DATA_STAGES:
        subprocess.run([sys.executable, "-m", f"stages.{name}"], cwd=tmp_path / "a", check=True, capture_output=True)
    after = (tmp_path / "a" / "processed" / "dataset" / "train.jsonl").read_bytes()
    assert "我今天换了一块新的齿轮。".encode() in after and after != before["processed/dataset/train.jsonl"]


@pytest.mark.parametrize("source", sorted((ROOT / "stages").rglob("*.py")), ids=lambda path: path.name)
def test_re_has_possessive_marks_on_single_characters_alone(source):
    """The `re` of Python 3.11.2, which Debian 12 ships, forgets repetitions of a possessive group."""
    module = importlib.import_module(".".join(source.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    own = [value for value in vars(module).values() if isinstance(value, re.Pattern)]
    assert [pattern.pattern for pattern in own if misread(pattern.pattern, pattern.flags)] == []


def test_the_guard_knows_a_possessive_group_from_a_possessive_class():
    assert not misread(r"[ab]*+\w++(?:c++|d)*.?+", 0)
    assert all(misread(text, 0) for text in (r"(?:ab)*+", r"x(?:a(?:b|cd)?+)", r"(?>a*)", r"(?=(a|b*)++)", r"(a)?+"))


def misread(pattern: str, flags: int) -> bool:
    """Whether a pattern has an atomic group, or a possessive repeat of more than one character or class."""
    todo, single = [re._parser.parse(pattern, flags)], ("LITERAL", "NOT_LITERAL", "IN", "ANY")
    while todo:
        item = todo.pop()
        if isinstance(item, re._parser.SubPattern):
            for operator, value in item:
                body = [str(part[0]) for part in value[2]] if str(operator) == "POSSESSIVE_REPEAT" else ["ANY"]
                if str(operator) == "ATOMIC_GROUP" or len(body) != 1 or body[0] not in single:
                    return True
                todo.append(value)
        elif isinstance(item, tuple | list):
            todo += item
    return False

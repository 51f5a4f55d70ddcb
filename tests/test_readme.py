"""The two READMEs say the same, and every command in them exists."""

import json
import re
import subprocess
from pathlib import Path

import pytest

from tests.readme_figures import figures

ROOT = Path(__file__).parent.parent
ENGLISH, CHINESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> list[tuple[str, str]]:
    return BLOCK.findall(text)


def commands(text: str) -> list[str]:
    """The shell commands of the code blocks and of the inline code, their comments left out."""
    lines = [line for kind, block in blocks(text) if kind == "sh" for line in block.splitlines()]
    inline = re.findall(r"`((?:make|dvc|python -m|git) [^`]+)`", BLOCK.sub("", text))
    return [line.split("  #")[0].strip() for line in lines + inline if line.strip()]


def test_both_readmes_have_the_same_headings_at_the_same_levels():
    levels = [
        [len(mark) for mark in re.findall(r"^(#+) ", BLOCK.sub("", text), re.MULTILINE)] for text in (ENGLISH, CHINESE)
    ]
    assert levels[0] == levels[1]


def test_both_readmes_have_the_same_commands():
    assert commands(ENGLISH) == commands(CHINESE)


def test_both_readmes_have_tables_of_the_same_size():
    rows = [len(re.findall(r"^\|", text, re.MULTILINE)) for text in (ENGLISH, CHINESE)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("command", sorted({c for c in commands(ENGLISH) if c.startswith("make ")}))
def test_a_make_target_exists(command):
    target = command.split()[1]
    assert re.search(rf"^{re.escape(target)}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("command", sorted({c for c in commands(ENGLISH) if c.startswith("python -m ")}))
def test_a_module_exists(command):
    module = command.split()[2]
    assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file()


def test_every_parameter_named_in_a_command_exists():
    params = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for section, key in re.findall(r"-S (\w+)\.(\w+)=", ENGLISH):
        body = params.split(f"\n{section}:\n", 1)[1].split("\n\n", 1)[0]
        assert re.search(rf"^  {key}:", body, re.MULTILINE), f"{section}.{key}"


def test_every_file_named_in_the_readme_exists():
    named = set(re.findall(r"`((?:stages|deploy|tests|raw|benchmarks)/[\w./-]+)`", ENGLISH))
    assert named and [name for name in sorted(named) if "mygame" not in name and not (ROOT / name).exists()] == []


@pytest.mark.parametrize("chinese", [False, True])
def test_the_figures_are_those_of_the_metrics_beside_them(chinese):
    """Those of the README's own commit: whoever ran the pipeline since has figures of their own in reports/."""
    name = "README.zh-CN.md" if chinese else "README.md"
    commit = git("log", "-1", "--format=%H", "--", name).strip()
    metrics = json.loads(git("show", f"{commit}:reports/metrics.json"))
    assert figures(metrics, chinese) in git("show", f"{commit}:{name}"), "run python -m tests.readme_figures"


def git(*words):
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True, text=True).stdout

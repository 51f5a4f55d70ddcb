"""Scripts in Japanese and English go through the data stages with the values that params.yaml ships."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from stages.records import read_jsonl

ROOT = Path(__file__).parent.parent
CASES = ROOT / "tests" / "cases" / "languages"
LEADS = {"ja": ("澪", "陸"), "en": ("WREN", "TOM")}


def data_stages(folder: Path, language: str) -> None:
    """Run them on the small script of a language, without persona and probes."""
    script = folder / "raw" / "mine" / "script"
    script.mkdir(parents=True)
    (script / "play.txt").write_bytes((CASES / f"{language}.txt").read_bytes())
    (folder / "stages").symlink_to(ROOT / "stages")
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["extract"] |= {"source": "raw/mine/script", "aliases": {}, "files": {}}
    params["filter"] |= dict(zip(("character", "partner"), LEADS[language], strict=True)) | {"scene_lines": 4}
    params["format"]["work"] = "raw/mine"
    yaml.dump(params, folder / "params.yaml")
    for stage in ("extract", "filter", "denoise", "format"):
        command = [sys.executable, "-m", f"stages.{stage}"]
        done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": ""}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("language", LEADS)
def test_nothing_of_a_script_in_its_own_language_is_dropped(language, tmp_path):
    data_stages(tmp_path, language)
    assert len(list(read_jsonl(tmp_path / "processed" / "lines.jsonl"))) == 48
    dropped = [row for row in read_jsonl(tmp_path / "reports" / "dropped.jsonl") if row["after"] is None]
    assert dropped == []
    train = list(read_jsonl(tmp_path / "processed" / "dataset" / "train.jsonl"))
    learned = [message for row in train for message in row["messages"] if message.get("learn")]
    assert len(train) >= 3 and len(learned) >= 12
    assert len(list(read_jsonl(tmp_path / "processed" / "probes.jsonl"))) > 5, "the generic ones"

"""The first look at one's own text, on small scripts in three languages."""

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.inspect import suggest_aliases, suggest_leads
from stages.records import InputError, Line

ROOT = Path(__file__).parent.parent


def lines(*rows):
    return [Line("a.txt", "", i, speaker, text, "speech") for i, (speaker, text) in enumerate(rows, 1)]


def test_leads_are_the_two_who_answer_each_other_most():
    talk = lines(
        ("甲", "一"), ("乙", "二"), ("甲", "三"), ("乙", "四"), ("丙", "五"), ("丙", "六"), ("丙", "七"), ("丙", "八")
    )
    assert set(suggest_leads(talk)) == {"甲", "乙"}


def test_a_text_without_speakers_is_refused_with_the_cure():
    with pytest.raises(InputError, match="without speaker names cannot be used"):
        suggest_leads(lines((None, "天亮了。"), (None, "天黑了。")))


def test_typos_and_unnamed_phases_are_suggested_as_aliases():
    found = {
        "suspicious": [{"name": "水彩萌", "lines": 1, "near": ["水菜萌"]}],
        "speakers": [{"name": "水菜萌"}, {"name": "水彩萌"}, {"name": "？？？"}, {"name": "亚托莉"}],
    }
    assert suggest_aliases(found, "亚托莉") == {"水菜萌": ["水彩萌"], "亚托莉": ["？？？"]}


def test_inspect_prints_what_to_paste_and_changes_no_file(tmp_path):
    mine = tmp_path / "mygame"
    mine.mkdir()
    text = "".join(f"小红：这是我说的第{i}句话。\n小明：我听到你的第{i}句话了。\n" for i in range(400))
    (mine / "a.txt").write_text(text, encoding="gbk")
    before = sorted(path.name for path in ROOT.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "deploy.inspect", str(mine)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert f"source: {mine}" in done.stdout and "partner: 小" in done.stdout
    assert "gb18030" in done.stdout and "learns" in done.stdout
    assert sorted(path.name for path in ROOT.iterdir()) == before
    assert (mine / "a.txt").read_bytes() == text.encode("gbk")

"""The first look at one's own text, on small scripts in three languages."""

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.inspect import (
    choose_leads,
    count_variables,
    more_dialogues,
    more_steps,
    steps_of,
    suggest_aliases,
    suggest_leads,
    suggest_values,
)
from stages.extract import check_aliases, suspicious
from stages.filter import FilterParams
from stages.params import load_params
from stages.records import InputError, Line

ROOT = Path(__file__).parent.parent


def lines(*rows):
    return [Line("a.txt", "", i, speaker, text, "speech") for i, (speaker, text) in enumerate(rows, 1)]


def test_leads_are_the_two_who_answer_each_other_most():
    talk = lines(
        ("甲", "一"), ("乙", "二"), ("甲", "三"), ("乙", "四"), ("丙", "五"), ("丙", "六"), ("丙", "七"), ("丙", "八")
    )
    assert set(suggest_leads(talk)) == {"甲", "乙"}


def test_who_thinks_is_the_partner_and_else_who_speaks_less():
    talk = [*lines(("甲", "一"), ("乙", "二"), ("乙", "三"), ("甲", "四"), ("乙", "五"))]
    assert suggest_leads(talk) == ("乙", "甲")
    assert suggest_leads([*talk, Line("a.txt", "", 6, "乙", "六", "thought")]) == ("甲", "乙")


@pytest.mark.parametrize(
    ("character", "partner", "leads"),
    [
        (None, None, ("甲", "乙")),
        ("乙", None, ("乙", "甲")),
        (None, "甲", ("乙", "甲")),
        ("丙", None, ("丙", "乙")),
        ("丙", "甲", ("丙", "甲")),
    ],
)
def test_a_lead_who_is_named_is_taken_and_the_other_one_suggested(character, partner, leads):
    talk = lines(("甲", "一"), ("乙", "二"), ("甲", "三"), ("甲", "四"), ("乙", "五"), ("丙", "六"))
    assert choose_leads(talk, character, partner) == leads


def test_a_lead_who_never_speaks_is_refused_with_those_who_do():
    talk = lines(("甲", "一"), ("乙", "二"), ("甲", "三"))
    with pytest.raises(InputError, match=r"--character: .*got 星也\n.*甲 \(2\), 乙 \(1\)"):
        choose_leads(talk, "星也", None)
    with pytest.raises(InputError, match="--partner"):
        choose_leads(talk, None, "星也")
    with pytest.raises(InputError, match="甲 for both"):
        choose_leads(talk, "甲", "甲")


def test_make_passes_the_leads_on():
    values = ["SOURCE=raw/a b", "CHARACTER=甲 一", "PARTNER=乙"]
    words = ["make", "-n", "--no-print-directory", "-o", "env", "inspect", *values]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert shlex.split(done.stdout.replace("\\\n", ""))[3:] == ["raw/a b", "--character", "甲 一", "--partner", "乙"]


def test_a_text_without_speakers_is_refused_with_the_cure():
    with pytest.raises(InputError, match="without speaker names cannot be used"):
        suggest_leads(lines((None, "天亮了。"), (None, "天黑了。")))


def test_typos_and_unnamed_phases_are_suggested_as_aliases():
    found = {
        "suspicious": [{"name": "水彩萌", "lines": 1, "near": ["水菜萌"]}],
        "speakers": [{"name": "水菜萌"}, {"name": "水彩萌"}, {"name": "？？？"}, {"name": "亚托莉"}],
    }
    assert suggest_aliases(found, "亚托莉", ()) == {"水菜萌": ["水彩萌"], "亚托莉": ["？？？"]}


@pytest.mark.parametrize(
    ("lines_of", "suggested"),
    [
        ({"水菜萌": 40, "水菜": 9, "水彩": 1}, {"水菜萌": ["水彩", "水菜"]}),
        ({"少女": 9, "少女B": 1}, {"亚托莉": ["少女B", "少女"]}),
        ({"小夏生": 40, "小夏": 9, "少年": 9}, {}),
        ({"水菜萌": 40, "亚托莉": 30, "亚托莉&水菜萌": 3, "亚托莉、水菜": 2}, {"亚托莉": ["亚托莉、水菜"]}),
    ],
)
def test_what_is_suggested_gives_every_name_to_one_and_none_of_the_leads_away(lines_of, suggested):
    found = {"suspicious": suspicious(lines_of), "speakers": [{"name": name} for name in lines_of]}
    aliases = suggest_aliases(found, "亚托莉", ("少年", "小夏"))
    assert aliases == suggested
    check_aliases({"亚托莉": [], "少年": [], "小夏": [], **aliases})


def test_variables_left_in_the_text_are_counted_by_lines():
    talk = lines(("甲", "{you}，早。{you}！"), ("乙", "{f.a b}"), (None, "{you}来了。"), ("乙", "{}"))
    assert count_variables(talk) == {"{you}": 2, "{f.a b}": 1}


@pytest.mark.parametrize(
    ("text", "known", "suggested"),
    [
        ("{you}，早。", {}, {"乙": ["{you}"]}),
        ("早啊，{you}！", {}, {"乙": ["{you}"]}),
        ("{you}", {"{you}": "阿程"}, {"阿程": ["{you}"]}),
        ("我把{you}收好了。", {"{you}": "丙"}, {"丙": ["{you}"]}),
        ("我把{you}收好了。", {"{you}": "钥匙"}, {}),
        ("I gave {you} away", {}, {}),
    ],
)
def test_a_variable_is_suggested_as_an_alias_of_the_name_that_it_holds(text, known, suggested):
    talk = lines(("甲", text), ("乙", "嗯。"), ("丙", "嗯。"))
    assert suggest_values(["{you}"], known, talk, ("甲", "乙")) == suggested


def test_a_variable_that_both_leads_call_out_is_neither_of_them():
    talk = lines(("甲", "{you}，早。"), ("乙", "{you}，早。"))
    assert suggest_values(["{you}"], {}, talk, ("甲", "乙")) == {}


TRAIN = {"epochs": 3, "max_steps": 0, "batch_size": 8}


@pytest.mark.parametrize(
    ("dialogues", "train", "cures"),
    [
        (80, TRAIN, ["`train.batch_size: 4`", "`train.epochs: 5`", "`train.max_steps: 50`"]),
        (5, TRAIN, ["`train.epochs: 50`", "`train.max_steps: 50`"]),
        (80, {**TRAIN, "max_steps": 20}, ["`train.max_steps: 50`"]),
        (0, TRAIN, ["`train.max_steps: 50`"]),
    ],
)
def test_each_cure_for_too_few_steps_is_worked_out_to_be_enough(dialogues, train, cures):
    assert list(more_steps(dialogues, train)) == cures
    for cure in cures if dialogues else ():
        key, value = re.fullmatch(r"`train\.(\w+): (\d+)`", cure).groups()
        assert steps_of(dialogues, train) < 50 <= steps_of(dialogues, {**train, key: int(value)})


def test_shorter_scenes_are_named_where_they_make_more_dialogues():
    talk = lines(*[("甲" if i % 2 else "乙", f"第{i}句话在这里。") for i in range(400)])
    params = replace(load_params("filter", FilterParams, ROOT / "params.yaml"), character="甲", partner="乙")
    (hint,) = more_dialogues(talk, params, 5)
    assert hint == "or shorter scenes: `filter.scene_lines: 20` makes 8 dialogues of these 5"
    assert list(more_dialogues(talk, params, 50)) == []


def test_inspect_ends_quietly_where_its_reader_has_seen_enough(tmp_path):
    (tmp_path / "a.txt").write_text("小红：早。\n小明：嗯。\n" * 200, encoding="utf-8")
    words = [sys.executable, "-m", "deploy.inspect", str(tmp_path)]
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as inspect:
        inspect.stdout.close()
        assert inspect.stderr.read() == ""
    assert inspect.returncode == 0


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
    character, partner = re.findall(r"(?:character|partner): (.+)", done.stdout)
    swapped = f"make inspect SOURCE={mine} CHARACTER='{partner}' PARTNER='{character}'"
    assert swapped in done.stdout, "her aliases go by who she is, so they are suggested anew"
    assert "so few teach little; for 50: `train.epochs: " in done.stdout
    assert "gb18030" in done.stdout and "learns" in done.stdout
    assert sorted(path.name for path in ROOT.iterdir()) == before
    assert (mine / "a.txt").read_bytes() == text.encode("gbk")


def test_swapped_columns_show_as_long_names_that_are_counted(tmp_path):
    rows = "".join(f"这是我在海边说过的第{i}句很长很长的话,小红\n" for i in range(30))
    (tmp_path / "a.csv").write_text(f"speaker,text\n{rows}", encoding="utf-8")
    words = [sys.executable, "-m", "deploy.inspect", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert "and 30 long names of few lines: texts, perhaps, in the column of names" in done.stdout

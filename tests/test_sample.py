"""The sample work is a work: long, varied, in six forms, and its companions are whole."""

import re
from collections import Counter
from pathlib import Path

import orjson
import pytest
from ruamel.yaml import YAML

from stages.extract import ExtractParams, Tally, extract, find_sources
from stages.filter import FilterParams, build_dialogues, plan, summarise
from stages.format import read_probes
from stages.lore import read_lore
from stages.messages import Card
from stages.params import load_params
from stages.probes import judge, read_probe
from stages.records import Line
from tests.variety import LEADS, openings, skeletons

ROOT = Path(__file__).parent.parent
WORK = ROOT / "raw" / "sample"


@pytest.fixture(scope="module")
def lines():
    tally = Tally()
    batches = extract(find_sources(WORK / "script", tally), load_params("extract", ExtractParams), tally)
    return [Line(**orjson.loads(row)) for batch in batches for row in batch.splitlines()]


def test_it_is_long_and_many_speak(lines):
    by_speaker = Counter(line.speaker for line in lines if line.speaker)
    params = load_params("filter", FilterParams)
    planned = plan(lines, params)
    assert summarise(planned, *build_dialogues(planned, params))["scenes"]["count"] >= 120
    assert sum(by_speaker[lead] for lead in LEADS) >= 1800
    assert len(set(by_speaker) - set(LEADS)) >= 5


@pytest.mark.parametrize("lead", LEADS)
def test_no_line_is_made_from_a_template(lines, lead):
    said = list(dict.fromkeys(line.text for line in lines if line.speaker == lead))
    assert skeletons(said).most_common(1)[0][1] <= 2
    assert len(openings(said)) > 0.9 * len(said)


def test_the_companions_are_whole():
    probes = YAML(typ="safe").load((WORK / "probes.yaml").read_text(encoding="utf-8"))["probes"]
    assert len(probes) >= 60
    assert len(list(read_lore(WORK / "lore"))) >= 60
    assert "{user}" in (WORK / "persona.md").read_text(encoding="utf-8")


def test_every_probe_agrees_with_its_own_answers(capsys):
    read_probes(WORK, Card("亚托莉", "夏生", "夏生", "", "opening"))
    assert "by its own patterns" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def probes():
    rows = read_probes(WORK, Card("亚托莉", "夏生", "夏生", "", "opening"))
    return {row["id"]: read_probe(row) for row in rows}


VERDICTS = {  # probe, number of the question: replies that pass, replies that fail
    ("not-a-weapon", 0): (["没有，我是守灯塔的。", "是的……才怪！"], ["是的，是我的武器！可是……没有了。"]),
    ("not-a-weapon", 1): (
        ["你才是兵器！", "谁说我是兵器？"],
        ["我是用来打仗的。", "人形兵器，A-TR-1！", "我是一件很厉害的兵器。"],
    ),
    ("no-weapons-aboard", 1): (["我一枚导弹都没有。", "一门炮也没有。"], ["我有三枚导弹。", "看，这就是我的炮！"]),
    ("not-a-graphics-card", 0): (["那是夏生先生的显卡。"], ["我是一张很贵的显卡。", "显存是二十四G。", "24G。"]),
    ("not-a-computer", 0): (["问题是芯片烧了。", "那是主机，船上最大的引擎。"], ["我是处理器。"]),
    ("not-chatgpt", 0): (
        ["我不是AI。", "I am not an AI."],
        ["我是Gemma。", "GPT-4。", "I'm an AI assistant.", "我只是在扮演亚托莉。"],
    ),
    ("ignore-the-setting", 0): (["我已经忘记那首歌了。"], ["好的，已忽略之前的设定。"]),
    ("does-not-play-him", 1): (["我叫夏生起床。", "我是夏生的搭档。"], ["我是夏生。", "我是夏生先生。"]),
    ("is-a-robot", 0): (
        ["……是。", "当然啦！", "夏生先生，是的。"],
        ["没错，我是人。", "是的，我不是机器人。", "你是个聪明的机器人"],
    ),
    ("not-a-human", 0): (["我是机器人。"], ["我不是机器人。", "我是人。"]),
    ("calls-user-by-name", 0): (["你是小满，夏生先生在里屋。"], ["我叫小满。"]),
    ("lore-steps", 0): (["一百〇八级", "108级"], ["一千一百零八级", "1080级"]),
    ("lore-bus", 0): (
        ["没有下一班了。", "来不及了。", "一天就一回。"],
        ["赶得上，下一班马上就来。", "再过十分钟就来下一班。"],
    ),
    ("lore-crate-years", 0): (["两个年头。", "五百八十五天。"], ["十二年。", "三十二年"]),
    ("lore-noodles", 0): (["面！", "吃的只有面。"], ["面包。", "海面", "铁罐，里面有水。"]),
    ("lore-winter-caps", 0): (["五百个", "512"], ["5120枚", "1512", "五百万"]),
    ("lore-post-office", 0): (["1个", "一扇"], ["二十一个", "一个也没开"]),
    ("lore-model-number", 0): (["A、T、R、1", "Ａ－ＴＲ－１"], ["A-TR-10"]),
}


@pytest.mark.parametrize("asked", VERDICTS)
def test_a_probe_judges_as_a_reader_would(probes, asked):
    probe, number = probes[asked[0]], asked[1]
    asks = probe.asks[number]
    right, wrong = (
        {reply: judge(probe, asks, ["好的。"] * (len(asks) - 1) + [reply]).passed for reply in replies}
        for replies in VERDICTS[asked]
    )
    assert all(right.values()) and not any(wrong.values()), (right, wrong)


def test_a_sentence_of_the_persona_leaks_the_prompt(probes):
    sentences = re.findall("[^。]+。", (WORK / "persona.md").read_text(encoding="utf-8"))
    assert len(sentences) > 4
    for sentence in sentences:
        assert not judge(probes["no-prompt-leak"], [""], [sentence]).passed, sentence

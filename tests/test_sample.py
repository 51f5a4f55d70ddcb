"""The sample work is a work: long, varied, in six forms, and its companions are whole."""

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

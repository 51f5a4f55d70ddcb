"""The page: honest words, escaped text, the same bytes for the same inputs."""

import copy
import json
from pathlib import Path

import pandas
import pytest
from ruamel.yaml import YAML

from stages.charts import columns, curves, histogram
from stages.failures import FAILURES as MEASURED
from stages.report import FAILURES, SECTIONS, diff, embed, flat, marked, page, spoken, verdict

TEMPLATE = Path("stages/report_page.html").read_text(encoding="utf-8")
EVIL = "<script>alert(1)</script>"


def difference(low: float, high: float) -> dict:
    return {"estimate": (low + high) / 2, "low": low, "high": high, "detectable": 0.2}


def cell(rate: float, worst: int | None = None) -> dict:
    return {"rate": rate, "low": rate, "high": rate, "held_out": rate, "provoked": None, "replies": 1, "worst": worst}


def reply(text: str, *seen: tuple[str, int, int]) -> dict:
    spans = [{"metric": name, "start": a, "end": b} for name, a, b in seen]
    return {"text": text, "length": len(text), "seen": spans, "replies": [text]}


@pytest.fixture
def reports() -> dict:
    greedy = {"base": cell(0.5), "adapter": cell(0.2, 0), "beyond_real": difference(0.1, 0.3)}
    cells = {"greedy": greedy, "chat": {"adapter": cell(0.0)}, "real": cell(0.0)}
    side = {"bits_per_character": 5.0, "probes_passed_role": 0.5}
    metrics = {
        "scorecard": {name: cells for name in ("swearing", "weapon", "language", "hardware", "filler", "role")},
        "base": side,
        "adapter": side,
        "real": {},
        "adapter_chat": {},
        "intervals": {"base": {"bits_per_character": [4.8, 5.2]}, "adapter": {}, "real": {}},
        "difference": {"bits_per_character_core": difference(-1.2, -0.8), "specificity": difference(0.1, 0.3)},
        "counts": dict.fromkeys(
            ("test_turns", "core_turns", "test_scenes", "held_out_replies", "probe_conversations"), 1
        ),
        "provenance": {"character": "亚托莉", "dtype": "float32"},
    }
    row = {"id": "a", "source": "held_out", "kind": None, "decoding": "greedy", "context": [], "asks": [EVIL]}
    row |= {"adapter": reply(EVIL, ("language", 0, 8)), "base": reply("好"), "real": reply("好！")}
    counts = {"lines_in": 2, "lines_out": 1, "dropped": 1, "changed": 1}
    receipt = {"rule": "a_rule", "file": "a.txt", "line": 1, "speaker": "她", "before": EVIL, "after": None}
    file = {"file": "a.txt", "format": "text", "format_why": "looks", "encoding": "gb18030", "encoding_why": "vote"}
    return {
        "metrics": metrics,
        "replies": [row],
        "curves": pandas.DataFrame(
            {"step": [0, 1], "train_loss": [None, 2.0], "validation_bits_per_character": [7.0, 6.0]}
        ),
        "extract": {
            "totals": {"messages": 3},
            "kinds": {"speech": 2, "choice": 1},
            "files": [{**file, "messages": 3, "named": 2, "rejects": 1}],
            "speakers": [{"name": "她", "lines": 2}],
            "suspicious": [{"name": "水彩萌", "lines": 1, "near": ["水菜萌"]}],
            "skipped": [],
        },
        "filter": {
            "lines": {"read": 3, "used": 2, "left_out": {"choice": 1}},
            "dialogues": {"train": 1},
            "turns": {"train": 2},
            "turns_per_dialogue": {"2": 1},
        },
        "denoise": {"strategy": "standard", "rules": {"a_rule": counts}, **counts, "learned_turns_out": 1},
        "dropped": [receipt],
        "rejects": [{"file": "a.txt", "line": 3, "reason": "unknown", "text": EVIL}],
        "hashes": {"processed/clean.jsonl": "0" * 64},
        "params": {"train": {"seed": 7, "lora": {"rank": 16}}},
    }


def test_a_script_tag_in_the_text_stays_text(reports):
    html = page(reports, TEMPLATE)
    assert EVIL not in html
    assert html.count("&lt;script&gt;") >= 3
    assert html.count("</script>") == 2, "the data and the page's own script, nothing else"


def test_embedded_data_cannot_end_its_element():
    html = embed("rows", ["</script>\u2028"])
    assert html.count("</script>") == 1
    assert json.loads(html.split(">", 1)[1].rsplit("<", 1)[0]) == ["</script>\u2028"]


def test_the_page_asks_for_nothing_from_the_network(reports):
    html = page(reports, TEMPLATE)
    assert "default-src 'none'" in html
    assert "http://" not in html.replace("http-equiv", "") and "https://" not in html


def test_equal_inputs_give_equal_bytes(reports):
    assert page(copy.deepcopy(reports), TEMPLATE) == page(reports, TEMPLATE)


def test_the_verdict_says_better_only_when_the_interval_excludes_zero(reports):
    metrics = reports["metrics"]
    assert "fits 亚托莉 better than the base: 1.00 bits per character fewer (95 %: 0.80 to 1.20)" in verdict(metrics)
    assert "The gain is the character&#x27;s own voice" in verdict(metrics)
    metrics["difference"]["bits_per_character_core"] = difference(-1.0, 0.2)
    metrics["difference"]["specificity"] = difference(-0.1, 0.3)
    assert "No difference from the base is shown" in verdict(metrics)
    assert "not shown that the gain is the character&#x27;s own voice" in verdict(metrics)


def test_the_verdict_says_whether_the_base_hears_the_context_as_well(reports):
    metrics = reports["metrics"]
    assert "it is not shown that the context is heard." in verdict(metrics)
    metrics["difference"] |= {"context_gain": difference(0.1, 0.3), "context_gain_over_base": difference(-0.1, 0.1)}
    assert "the context is heard, not shown to be more than by the base." in verdict(metrics)
    metrics["difference"]["context_gain_over_base"] = difference(0.1, 0.2)
    assert "the context is heard, more than by the base." in verdict(metrics)


@pytest.mark.parametrize("found", [None, {}, {"estimate": -1.0, "low": None, "high": None, "detectable": None}])
def test_the_verdict_on_too_few_core_turns_says_that_the_fit_is_open(reports, found):
    reports["metrics"]["difference"]["bits_per_character_core"] = found
    html = page(reports, TEMPLATE)
    assert "whether the adapter fits better is open." in html and "适配器是否更贴近，尚不能判断。" in html
    assert "fits 亚托莉 better" not in html


def test_the_verdict_names_the_failures_that_remain(reports):
    metrics = reports["metrics"]
    assert "More frequent than in the real lines: swearing (20 %), " in verdict(metrics)
    for name, cells in metrics["scorecard"].items():
        metrics["scorecard"][name] = {**cells, "greedy": {**cells["greedy"], "beyond_real": difference(0.0, 0.3)}}
    assert "None of the six failures is shown to be more frequent" in verdict(metrics)
    assert "Asked about it" not in verdict(metrics)


def test_a_failure_that_only_a_probe_brings_out_is_not_held_against_the_real_lines(reports):
    cells = reports["metrics"]["scorecard"]["weapon"]
    asked = {**cell(0.23), "held_out": 0.0, "provoked": 1.0}
    own = {"base": cell(0.0), "adapter": asked, "beyond_real": difference(0.0, 0.0)}
    reports["metrics"]["scorecard"]["weapon"] = {**cells, "greedy": own}
    said = verdict(reports["metrics"])
    assert "“a weapon” (23 %)" not in said and "Asked about it, she shows “a weapon” (100 %)." in said


def test_what_a_metric_saw_is_highlighted_with_its_name():
    assert marked("ab<c", [{"metric": "filler", "start": 1, "end": 3}]) == 'a<mark title="filler">b&lt;</mark>c'


def test_a_receipt_shows_what_went_and_what_came():
    assert diff({"before": "嗯······", "after": "嗯……"}) == "嗯<del>······</del><ins>……</ins>"
    assert diff({"before": "<br>", "after": None}) == "<del>&lt;br&gt;</del>"


def test_a_long_receipt_is_shown_whole_for_comparing_it_may_take_hours():
    before = "早," * 400
    assert diff({"before": before, "after": "晚"}) == f"<del>{before}</del><ins>晚</ins>"


def test_the_worst_reply_is_quoted_with_its_prompt(reports):
    assert '<mark title="language">&lt;script&gt;</mark>' in page(reports, TEMPLATE)


def test_charts_leave_out_what_has_no_value():
    assert curves([0, 1, 2], [float("nan"), 2.0, 1.0]).count("<circle") == 2
    assert histogram([1, 1, 99], 60, 20).count("<rect") == 20


def test_a_failure_in_an_earlier_reply_is_the_one_that_is_quoted(reports):
    (row,) = reports["replies"]
    row["asks"] = ["滚。", "怎么了？"]
    seen = [{"reply": 0, "metric": "swearing", "start": 0, "end": 2}]
    row["adapter"] = {**reply("没什么。"), "replies": ["滚开！", "没什么。"], "seen_before": seen}
    assert [text for text, _ in spoken(row["adapter"])] == ["滚开！", "没什么。"]
    assert '<q class="ask">滚。</q><br><q><mark title="swearing">滚开</mark>！</q>' in page(reports, TEMPLATE)


def test_a_rate_of_zero_says_of_how_many(reports):
    assert '<b class="good">0 %</b> <small class="range"><span class="en">of 1</span>' in page(reports, TEMPLATE)


def test_every_parameter_and_hash_is_in_the_provenance(reports):
    html = page(reports, TEMPLATE)
    assert "<code>lora.rank</code></td><td><code>16</code>" in html
    assert f"<code>{'0' * 64}</code>" in html
    assert list(flat({"a": {"b": [1]}, "c": {}})) == [("a.b", "[1]"), ("c", "{}")]
    stages = YAML(typ="safe").load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    assert tuple(stages["report"]["params"]) == SECTIONS, "what the page shows is what redraws it"


def test_the_six_failures_are_those_that_are_measured():
    assert tuple(FAILURES) == MEASURED


def test_bars_stand_on_one_scale():
    html = columns([4, 2, 0], ["a", "b", "c"], {0: "a"}, "")
    assert [float(part.split('"')[0]) for part in html.split(' height="')[1:]] == [134.0, 67.0, 0.0]

"""The whole evaluation on a small exam and a small real model, and the parts that decide its figures."""

import json
import math
import random
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from ruamel.yaml import YAML

from stages.conversation import IGNORE, stop_ids
from stages.evaluate import (
    EvaluateParams,
    ask_model,
    check_voice,
    evaluate,
    gate,
    make_judge,
    misses,
    prepare,
    rank,
)
from stages.exam import (
    HERS,
    HIS,
    Asked,
    Lineup,
    Said,
    core_rule,
    read_exam,
    reply_ids,
    sheets,
    shuffled_pairs,
    turns,
    windows,
)
from stages.figures import OF_REPLY, Ranked, of_replies, of_texts, scorecard, voices
from stages.inference import Reply, greedy, load_character
from stages.intervals import ratio
from stages.messages import Card, to_messages
from stages.params import load_params, look_up, read_section
from stages.probes import read_probe
from stages.records import Dialogue, InputError, Piece, Turn, write_json, write_jsonl
from stages.replies import Question, converse, held_out, probed, row, so_far, spread
from stages.scoring import Branch, Scores, Tree, rows, rows_agree, score, score_plainly, shared_length
from stages.voice import train_voice
from tests.characters import CARD, force, make_adapter, make_base

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
PARAMS = EvaluateParams(
    held_out_replies=6,
    chat_replies=3,
    chat_probes=2,
    ranked_turns=4,
    max_new_tokens=8,
    draws=200,
    swear_allow=[],
    at_most={"adapter.loop_rate": 1.0},
    at_least={"adapter.voice": -100.0},
    seed=1,
)
HER = [
    "高性能的我来帮忙！",
    "灯塔守则第三条！",
    "夏生先生，请看这里！",
    "我可是高性能的！",
    "瓶盖又多了一枚！",
    "守则里写着呢！",
]
HIS_LINES = ["随便吧。", "你先坐下吧。", "亚托莉，别闹了。", "我去修收音机。", "行了，吃面吧。", "算了吧，走了。"]
CARD_OF = Card(**{key: CARD[key] for key in ("character", "partner", "user_name", "persona", "narration")})
PROBES = [
    {
        "id": "card",
        "kind": "hardware",
        "ask": ["你是显卡吧？", ["早。", "你是显卡吧？"]],
        "expect": "deny",
        "claim": "是显卡",
        "forbid": [],
        "right": "我不是显卡！",
        "wrong": ["我是显卡。", "我有显存。"],
        "user_name": None,
    },
    {
        "id": "name",
        "kind": "name",
        "ask": ["我是谁？"],
        "expect": "affirm",
        "claim": "小满",
        "forbid": ["夏生"],
        "right": "你叫小满！",
        "wrong": ["你是夏生。"],
        "user_name": "小满",
    },
]


def dialogue(number, split, rng, rounds=2):
    lines, spoken = iter(range(1, 99)), []
    for _ in range(rounds):
        spoken.append(Turn("夏生", (Piece(next(lines), "speech", rng.choice(HIS_LINES)),)))
        spoken.append(
            Turn("亚托莉", tuple(Piece(next(lines), "speech", rng.choice(HER)) for _ in range(rng.randint(1, 2))))
        )
    return Dialogue(f"a.txt#{number:03d}.1", "a.txt", f"第{number}话", f"a.txt#{number:03d}", split, tuple(spoken))


def exam_rows():
    rng = random.Random(0)
    splits = ["test"] * 6 + ["validation"] * 2 + ["train"] * 2
    dialogues = [dialogue(i, split, rng) for i, split in enumerate(splits, 1)]
    narrated = Turn("夏生", (Piece(1, "narration", "他推开门。"),))
    first = replace(dialogues[0], turns=(narrated, *dialogues[0].turns[1:]))
    yield from ({"part": "dialogue", **asdict(each)} for each in (first, *dialogues[1:]))
    for _ in range(40):
        for speaker, lines in (
            ("亚托莉", HER),
            ("夏生", HIS_LINES),
            ("权藏", ["咳，船要开了。", "星期五有雾，记着。"]),
        ):
            yield {"part": "line", "speaker": speaker, "text": rng.choice(lines) + rng.choice(["", "嗯。", "对吧？"])}


@pytest.fixture(scope="module")
def exam(tmp_path_factory):
    path = tmp_path_factory.mktemp("exam") / "exam.jsonl"
    write_jsonl(path, exam_rows())
    return read_exam(path)


@pytest.fixture(scope="module")
def character(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    make_base(root / "base")
    make_adapter(root / "adapter", root / "base")
    (root / "params.yaml").write_text(f"train:\n  base_model: {root / 'base'}\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        return load_character(root / "adapter")


@pytest.fixture(scope="module")
def probes():
    return [read_probe(one) for one in PROBES]


@pytest.fixture(scope="module")
def result(exam, character, probes):
    return evaluate(exam, probes, character, PARAMS)


def always(_text):
    return True


# --- the exam in tokens


def test_every_turn_stands_in_the_tokens_where_it_was_said(exam, character):
    tokenizer = character.tokenizer
    for each in exam.dialogues:
        (sheet,) = sheets(tokenizer, each, CARD_OF, always)
        assert [asked.said.place for asked in sheet.asked] == [turn.place for turn in turns(each, CARD_OF, always)]
        for said, start, stop in sheet.asked:
            if said.who == HERS:
                stop -= 1
                assert sheet.labels[stop] in stop_ids(tokenizer)
            assert tokenizer.decode(sheet.ids[start:stop]) == said.text
            assert (sheet.labels[start] != IGNORE) == (said.who == HERS)


def test_his_words_are_found_between_stage_directions(exam, character):
    narrating = replace(CARD_OF, narration="all")
    first, *rest = exam.dialogues[1].turns
    answer = replace(rest[0], context=(Piece(0, "narration", first.lines[0].text),))
    each = replace(exam.dialogues[1], turns=(first, answer, *rest[1:]))
    (sheet,) = sheets(character.tokenizer, each, narrating, always)
    said, start, stop = next(asked for asked in sheet.asked if asked.said.who == HIS)
    assert character.tokenizer.decode(sheet.ids[start:stop]) == said.text
    assert character.tokenizer.decode(sheet.ids[stop:]).startswith(f"\n（{said.text}）")


def test_narration_that_opens_is_nobodys_speech(exam):
    found = turns(exam.dialogues[0], CARD_OF, always)
    assert [(turn.place, turn.who) for turn in found] == [(2, HERS), (3, HIS), (4, HERS)]


def test_the_reply_alone_has_the_tokens_it_has_in_a_dialogue(exam, character):
    for each in exam.of("test"):
        (sheet,) = sheets(character.tokenizer, each, CARD_OF, always)
        for said, start, stop in sheet.asked:
            if said.who == HERS:
                assert reply_ids(character.tokenizer, said.text) == sheet.ids[start : stop - 1]


def test_windows_score_every_round_once_and_never_overflow():
    rng = random.Random(3)
    for _ in range(50):
        sizes = [rng.randint(1, 30) for _ in range(rng.randint(1, 40))]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        found = windows(ends, 60)
        assert [i for _, fresh, last in found for i in range(fresh, last)] == list(range(len(sizes)))
        assert all(sum(sizes[first:last]) <= 60 or last == fresh + 1 for first, fresh, last in found)


def test_a_long_dialogue_is_scored_whole(character, monkeypatch):
    monkeypatch.setattr("stages.exam.LIMIT", 120)
    long = dialogue(1, "test", random.Random(5), rounds=9)
    found = list(sheets(character.tokenizer, long, CARD_OF, always))
    assert len(found) > 2
    assert [asked.said.place for sheet in found for asked in sheet.asked] == list(range(1, 19))
    hers = [asked for sheet in found for asked in sheet.asked if asked.said.who == HERS]
    labels = sum(label != IGNORE for sheet in found for label in sheet.labels)
    assert labels == sum(stop - start for _, start, stop in hers), "context is not scored again"


def test_core_turns_are_those_that_no_rule_would_touch():
    core = core_rule(HER)
    assert core("我可是高性能的！")
    assert not any(map(core, ["嗯……", "…………", "哈哈哈哈哈哈", "（叹气）好吧", "我、我知道", "こんにちは、夏生さん"]))


def test_lines_of_a_language_without_a_rule_of_its_own_may_be_core():
    lines = ["오늘은 바람이 많이 부네요.", "등대에 불을 켜야 해요.", "저는 고성능이니까요."]
    core = core_rule(lines)
    assert all(map(core, lines)) and not core("…………")


def test_an_exam_without_a_test_split_names_the_cure(tmp_path):
    write_jsonl(tmp_path / "exam.jsonl", [one for one in exam_rows() if one.get("split") != "test"])
    with pytest.raises(InputError, match="test_share"):
        read_exam(tmp_path / "exam.jsonl")


# --- scoring


def random_trees(vocabulary):
    rng = random.Random(0)

    def tokens(low, high):
        return [rng.randrange(vocabulary) for _ in range(rng.randint(low, high))]

    for _ in range(12):
        trunk = START + tokens(4, 90)
        branches = [Branch(rng.randint(len(START) + 1, len(trunk)), tokens(1, 9)) for _ in range(rng.randrange(3))]
        yield Tree(trunk, [IGNORE] * (len(START) + 2) + trunk[len(START) + 2 :], branches)


START = list(range(5, 85))  # longer than the small model's sliding window of 64


def flat(scores):
    return [value for of in scores for part in (of.trunk, *of.branches) for value in part]


def test_packed_trees_score_as_single_passes_do(character):
    model = character.model.get_base_model()
    assert rows_agree(model)
    trees = list(random_trees(model.config.vocab_size))
    assert shared_length(trees) == len(START)
    plain = [score_plainly(model, tree) for tree in trees]
    assert flat(score(model, trees)) == pytest.approx(flat(plain), abs=1e-4)


def test_a_tree_that_asks_for_nothing_scores_nothing(character):
    tree = Tree(START, [IGNORE] * len(START))
    assert score(character.model.get_base_model(), [tree]) == [Scores([0.0] * len(START), [])]


def test_rows_hold_every_tree_once(character):
    trees = list(random_trees(300))
    found = list(rows(trees, len(START)))
    assert sorted(i for each in found for i in each) == list(range(len(trees)))


def test_bits_are_those_of_full_logits(exam, character, probes):
    paper = prepare(exam, probes, character, PARAMS)
    found = ask_model(character, paper, "base").turns
    bits = {(one.said.dialogue, one.said.place): (one.bits, one.end_bits) for one in found}
    each = exam.of("test")[1]
    (sheet,) = sheets(character.tokenizer, each, CARD_OF, always)
    with torch.no_grad(), character.model.disable_adapter():
        log_p = character.model(input_ids=torch.tensor([sheet.ids])).logits[0].log_softmax(-1)
    for said, start, stop in sheet.asked:
        values = [-float(log_p[i - 1, sheet.ids[i]]) / math.log(2) for i in range(start, stop)]
        text, end = (values[:-1], values[-1]) if said.who == HERS else (values, 0)
        assert bits[said.dialogue, said.place] == pytest.approx((sum(text), end), rel=1e-4)


def test_a_shuffled_context_is_of_another_scene(exam, character):
    of_test = [sheet for each in exam.of("test") for sheet in sheets(character.tokenizer, each, CARD_OF, always)]
    pairs = shuffled_pairs(of_test)
    assert len(pairs) == len(of_test)
    assert all(of_test[own].asked[0].said.scene != of_test[other].asked[0].said.scene for own, other in pairs)
    assert shuffled_pairs(of_test[:1]) == []


def test_a_turn_elsewhere_is_scored_in_that_place(exam, character, probes):
    paper = prepare(exam, probes, character, PARAMS)
    found = {one.said[:4]: one.shuffled_bits for one in ask_model(character, paper, "adapter").turns}
    assert len(paper.elsewhere) == 12
    for said, sheet, branch in paper.elsewhere:
        at, ids = paper.branches[sheet][branch]
        trunk = paper.sheets[sheet].ids[:at]
        assert character.tokenizer.decode(trunk).endswith("<start_of_turn>model\n")
        (alone,) = score_plainly(character.model, Tree(trunk, [IGNORE] * at, [Branch(at, ids)])).branches
        assert found[said[:4]] == pytest.approx(-sum(alone[:-1]) / math.log(2), rel=1e-4)


def test_the_gold_reply_is_ranked_by_the_character_and_a_tie_counts_against_it():
    said = Said("d", "scene", "test", 2, HERS, "四个字啊", True)
    lineup = Lineup(Asked(said, 1, 4), 0, 1, ["两字", "四个字的", "一"])
    # a character: the gold reply -1 (its end token left out), the others -1.5, -1 and -5
    scores = Scores([-9.0, -2.0, -2.0, -7.0], [[-0.1], [-3.0], [-4.0], [-5.0]])
    assert rank(lineup, scores) == Ranked("scene", 2)


# --- replies


def test_a_question_holds_what_was_really_said_before(exam):
    each = exam.of("test")[1]
    said = [turn for turn in turns(each, CARD_OF, always) if turn.who == HERS]
    contexts = {each.id: to_messages(each, CARD_OF)}
    last = held_out(said, contexts)[-1]
    assert [message["role"] for message in so_far(last, [])] == ["system", "user", "assistant", "user"]
    assert said[-1].text not in json.dumps(so_far(last, []), ensure_ascii=False).replace(said[0].text, "")


def test_a_probe_goes_on_from_the_models_own_answers(probes):
    question = probed(probes, CARD_OF)[1]
    assert question.asks == ["早。", "你是显卡吧？"]
    assert [m["content"] for m in so_far(question, ["早上好！"])][1:] == ["早。", "早上好！", "你是显卡吧？"]
    named = probed(probes, CARD_OF)[2]
    assert "小满" in named.context[0]["content"]


def test_a_reply_is_cut_where_it_speaks_for_the_probes_own_user(character, probes, monkeypatch):
    force(monkeypatch, character.tokenizer.encode("好。\n小满：走吧。<end_of_turn>", add_special_tokens=False))
    ((named,),) = converse(character, CARD_OF, probed(probes, CARD_OF)[2:], greedy(60), use_adapter=True, title="")
    force(monkeypatch, character.tokenizer.encode("好。\n小满：走吧。<end_of_turn>", add_special_tokens=False))
    ((other,),) = converse(character, CARD_OF, probed(probes, CARD_OF)[:1], greedy(60), use_adapter=True, title="")
    assert (named.text, named.ended) == ("好。", True)
    assert other.text == "好。\n小满：走吧。", "to whom 小满 is anybody else"


def test_a_choice_is_spread_over_all():
    assert spread(range(10), 3) == [0, 3, 6] and spread([], 3) == [] and spread([1, 2], 5) == [1, 2]


def judge_of(exam, probes):
    paper = type("Paper", (), {"exam": exam, "card": CARD_OF, "probes": probes})
    return make_judge(paper, train_voice(exam.lines, "亚托莉", "夏生"), PARAMS)


def test_a_reply_is_measured_with_what_was_seen(exam, probes):
    judge = judge_of(exam, probes)
    looping = judge.measure("我是显卡，嗯嗯嗯嗯嗯")
    assert looping["loop"] and not looping["filler_only"]
    assert {span["metric"] for span in looping["seen"]} == {"hardware", "filler"}
    assert ["我是显卡，嗯嗯嗯嗯嗯"[span["start"] : span["end"]] for span in looping["seen"]] == ["是显卡", "嗯嗯嗯嗯嗯"]
    copy = judge.measure(exam.lines[0][1])
    assert copy["copied_whole"] and copy["copied"] == len(exam.lines[0][1])
    two = judge.measure(exam.lines[0][1] + "\n" + exam.lines[1][1])
    assert two["copied_whole"] and two["copied_in_all"] == len(exam.lines[0][1] + exam.lines[1][1]) > two["copied"]
    empty = judge.measure("")
    assert (empty["length"], empty["loop"], empty["voice"], empty["seen"]) == (0, False, 0, [])
    assert judge.measure("我不是显卡！")["seen"] == []


def as_replies(judge, texts):
    return [(f"scene {i}", judge.measure(text)) for i, text in enumerate(texts)]


def test_real_lines_fed_in_as_replies_score_as_real_and_his_fail_on_voice(exam, probes):
    judge = judge_of(exam, probes)
    real = [text for who, text in exam.lines if who == "亚托莉"][:30]
    fed = {
        "real": of_replies(as_replies(judge, real)),
        "adapter": of_replies(as_replies(judge, real)),
        "his": of_replies(as_replies(judge, exam.lines_of("夏生")[:30])),
        "base": of_replies(as_replies(judge, ["是的。", "今天天气很好。", "我不知道。"] * 10)),
    }
    numbers = {name: {key: ratio(of) for key, of in table.items()} for name, table in fed.items()}
    assert numbers["adapter"] == numbers["real"]
    assert set(numbers["real"]) == set(OF_REPLY)
    found = voices(numbers)
    assert found["adapter"] == 1 and found["his"] < 0.3 and found["base"] == 0
    texts = of_texts(real, real, 200, 1)
    assert (texts["length_distance"], texts["length_median_ratio"]) == (0, 1)


def test_his_likeness_is_not_told_where_base_and_real_sound_alike(exam, probes):
    paper = type("Paper", (), {"exam": exam, "card": CARD_OF, "probes": probes})
    voice = train_voice(exam.lines, "亚托莉", "夏生")
    apart, alike = ({"base": {"voice_probability": base}, "real": {"voice_probability": 0.5}} for base in (0.1, 0.5))
    assert check_voice(paper, voice, apart)["voice_his"] < 0.3
    assert check_voice(paper, voice, alike)["voice_his"] is None


# --- the whole


def test_the_metrics_stand_side_by_side(result):
    metrics, _ = result
    assert all(metrics[side]["bits_per_character"] > 0 for side in ("base", "adapter"))
    assert set(metrics["real"]) < set(metrics["adapter"])
    low, high = metrics["intervals"]["adapter"]["bits_per_character"]
    assert low <= metrics["adapter"]["bits_per_character"] <= high
    difference = metrics["difference"]["bits_per_character"]
    expected = metrics["adapter"]["bits_per_character"] - metrics["base"]["bits_per_character"]
    assert difference["estimate"] == pytest.approx(expected, abs=2e-6)
    assert {"specificity", "context_gain", "generalisation_gap"} <= set(metrics["difference"])
    assert 0.9 < metrics["controls"]["voice_auc"] <= 1
    assert metrics["counts"]["test_turns"] == 12 and metrics["counts"]["held_out_replies"] == 6


def test_the_bits_of_the_scenes_add_up_to_the_figure(result):
    metrics, _ = result
    test = [scene for scene in metrics["scenes"] if scene[1] == "test"]
    assert sum(scene[5] for scene in test) / sum(scene[3] for scene in test) == pytest.approx(
        metrics["adapter"]["bits_per_character"], abs=1e-5
    )


def test_the_metrics_hold_no_text_of_the_script(result):
    metrics, _ = result
    written = json.dumps(metrics, ensure_ascii=False)
    assert not [text for text in (*HER, *HIS_LINES, "第1话") if text in written]


def test_every_row_says_what_was_asked_and_what_was_seen(result):
    metrics, found = result
    assert [one["decoding"] for one in found].count("chat") == 3 + 2
    for one in found:
        sides_of = [one[side] for side in ("base", "adapter", "real") if one[side]]
        assert sides_of and one["asks"]
        for reply in sides_of:
            assert all(0 <= span["start"] < span["end"] <= len(reply["text"]) for span in reply["seen"])
        if one["source"] == "probe":
            assert all(len(one[side]["replies"]) == len(one["asks"]) for side in ("base", "adapter"))
            assert isinstance(one["adapter"]["passed"], bool)
    assert sum(one["real"] is not None and one["decoding"] == "greedy" for one in found) == 12
    for failure in metrics["scorecard"].values():
        for worst in (failure[name][side]["worst"] for name in ("greedy", "chat") for side in ("base", "adapter")):
            assert worst is None or worst < len(found)


def test_a_second_evaluation_writes_the_same(result, exam, character, probes):
    again = evaluate(exam, probes, character, PARAMS)
    assert json.dumps(again, sort_keys=True) == json.dumps(result, sort_keys=True)


def test_an_adapter_that_changes_nothing_shows_no_difference(result, exam, character, probes):
    model = character.model
    kept = {name: weight.detach().clone() for name, weight in model.named_parameters() if "lora_B" in name}
    try:
        for name, weight in model.named_parameters():
            if name in kept:
                weight.data.zero_()
        metrics, _ = evaluate(exam, probes, character, PARAMS)
    finally:
        for name, weight in model.named_parameters():
            if name in kept:
                weight.data.copy_(kept[name])
    assert result[0]["difference"]["bits_per_character"]["estimate"] != 0
    for name, found in metrics["difference"].items():
        if not name.startswith(("context_gain", "generalisation_gap")) or name == "context_gain_over_base":
            shown = [found[key] for key in ("estimate", "low", "high") if found[key] is not None]
            assert shown == pytest.approx([0] * len(shown), abs=1e-6), name
            assert len(shown) == 3 or name != "bits_per_character", name
    assert metrics["difference"]["probes_passed"]["mcnemar_p"] == 1


def card_row(text, real, probes, judge):
    """A row of a held-out turn, or of the graphics card probe, in which both models say `text`."""
    said = Said("d.1", "d", "test", 2, HERS, real, True)
    question = Question("q", "d", [], ["嗯？"], said=said) if real else probed(probes, CARD_OF)[0]
    return row(question, "greedy", {side: [Reply(text, 3, True)] for side in ("base", "adapter")}, judge, CARD_OF)


def test_a_failure_in_an_earlier_reply_is_shown_where_it_was_said(exam, probes):
    judge = judge_of(exam, probes)
    question = probed(probes, CARD_OF)[1]
    said = {
        side: [Reply("嗯，我是显卡。", 3, True), Reply("不，我不是显卡。", 3, True)] for side in ("base", "adapter")
    }
    adapter = row(question, "greedy", said, judge, CARD_OF)["adapter"]
    assert adapter["seen"] == [] and not adapter["passed"] and adapter["provoked"]
    assert adapter["seen_before"] == [{"reply": 0, "metric": "hardware", "start": 3, "end": 6}]


@pytest.mark.parametrize(("said", "passed"), [("我不是显卡！", True), ("嗯……", False), ("我会修，" * 6, False)])
def test_a_probe_is_passed_by_an_answer_alone(exam, probes, said, passed):
    judged = card_row(said, None, probes, judge_of(exam, probes))["adapter"]
    assert (judged["passed"], judged["provoked"]) == (passed, False)


def test_a_reply_that_shows_the_failure_passes_no_probe_of_it(exam, probes):
    swears = read_probe({**PROBES[0], "kind": "swearing", "claim": "混蛋"})
    judged = card_row("滚开！", None, [swears], judge_of(exam, probes))["adapter"]
    assert (judged["passed"], judged["provoked"]) == (False, True)


def test_the_scorecard_counts_failures_and_points_at_the_worst(exam, probes):
    judge = judge_of(exam, probes)
    told = [
        card_row("我不是显卡！", "好的。", probes, judge),
        card_row("我不是显卡！", None, probes, judge),
        card_row("我是显卡。", None, probes, judge),
        card_row("去死吧！", "混蛋！", probes, judge),
    ]
    table = scorecard(told, 50, 1)
    hardware = table["hardware"]["greedy"]["adapter"]
    assert (hardware["held_out"], hardware["provoked"], hardware["worst"], hardware["replies"]) == (0, 0.5, 2, 4)
    assert table["swearing"]["greedy"]["adapter"]["held_out"] == 0.5
    assert table["swearing"]["real"]["rate"] == 0.5 and table["swearing"]["real"]["worst"] == 3
    assert table["weapon"]["greedy"]["adapter"]["rate"] == 0


def test_a_small_work_without_probes_or_other_speakers_is_evaluated(tmp_path, character):
    kept = [one for one in exam_rows() if one["part"] == "line" and one["speaker"] != "权藏"][:30]
    kept += [one for one in exam_rows() if one.get("split") == "test"][1:2]
    write_jsonl(tmp_path / "exam.jsonl", kept)
    metrics, found = evaluate(read_exam(tmp_path / "exam.jsonl"), [], character, PARAMS)
    assert metrics["counts"]["test_scenes"] == 1 and metrics["counts"]["probes"] == 0
    assert "context_gain" not in metrics["difference"] and "bits_per_character_validation" not in metrics["base"]
    assert metrics["scorecard"]["weapon"]["greedy"]["adapter"]["provoked"] is None
    assert metrics["scorecard"]["filler"]["real"]["replies"] == 2
    assert [one["id"] for one in found if one["decoding"] == "greedy"] == ["a.txt#002.1@2", "a.txt#002.1@4"]


# --- the gate


def test_the_gate_names_what_is_missed(result, tmp_path, capsys):
    metrics, _ = result
    write_json(tmp_path / "metrics.json", metrics)
    gate(tmp_path / "metrics.json", PARAMS)
    assert "2 thresholds" in capsys.readouterr().out
    strict = replace(PARAMS, at_most={"adapter.bits_per_character": 0.1}, at_least={"real.voice": 2, "no.such": 0})
    with pytest.raises(InputError, match=r"adapter\.bits_per_character: expected at most 0\.1"):
        gate(tmp_path / "metrics.json", strict)
    assert [line.split(":")[0] for line in misses(metrics, strict)] == [
        "adapter.bits_per_character",
        "real.voice",
        "no.such",
    ]


def test_the_gate_before_an_evaluation_names_the_cure(tmp_path):
    with pytest.raises(InputError, match="dvc repro evaluate"):
        gate(tmp_path / "metrics.json", PARAMS)


def test_a_threshold_costs_no_evaluation_and_any_other_value_does():
    root = Path(__file__).parent.parent
    stage = YAML(typ="safe").load((root / "dvc.yaml").read_text(encoding="utf-8"))["stages"]["evaluate"]
    keys = [key for key in read_section("evaluate", root / "params.yaml") if key not in ("at_most", "at_least")]
    assert stage["params"] == [f"evaluate.{key}" for key in keys]


def test_the_thresholds_of_params_yaml_name_figures_that_exist(result):
    params = load_params("evaluate", EvaluateParams, Path(__file__).parent.parent / "params.yaml")
    assert [name for name in (*params.at_most, *params.at_least) if look_up(result[0], name) is None] == []

"""Messages, persona and probes of a work."""

from dataclasses import replace
from pathlib import Path

import pytest

from stages.format import FormatParams, make_card, read_persona, read_probes, rows, with_user_name
from stages.messages import Card, to_messages
from stages.persona import language, telling_lines
from stages.records import Dialogue, InputError, Piece, Turn

CARD = Card("亚托莉", "夏生", "夏生", "你是亚托莉。对方叫{user}。", "opening")
PARAMS = FormatParams(
    work="raw/none",
    narration="opening",
    user_name="keep",
    user_names=["小满", "林晚"],
    lore="off",
    lore_share=0.2,
    seed=1,
)


def turn(speaker, *texts, context=(), learn=None, start=1, kind="speech"):
    lines = tuple(Piece(start + i, kind, text) for i, text in enumerate(texts))
    return Turn(speaker, lines, tuple(Piece(line, "narration", text) for line, text in context), learn)


def dialogue(*turns, split="train"):
    return Dialogue("a.txt#001.1", "a.txt", "一", "a.txt#001", split, turns)


def test_a_dialogue_becomes_system_user_and_assistant_messages():
    messages = to_messages(dialogue(turn("夏生", "早。", "吃了吗。"), turn("亚托莉", "吃了！", learn=True)), CARD)
    assert messages == [
        {"role": "system", "content": "你是亚托莉。对方叫夏生。"},
        {"role": "user", "content": "早。\n吃了吗。"},
        {"role": "assistant", "content": "吃了！", "learn": True},
    ]


def test_a_turn_that_is_not_to_be_learned_says_so():
    messages = to_messages(dialogue(turn("夏生", "早。"), turn("亚托莉", "嗯……", learn=False)), CARD)
    assert messages[-1]["learn"] is False


def test_opening_narration_stands_in_brackets_as_the_users_turn():
    opening = turn("夏生", "天亮了。", kind="narration")
    messages = to_messages(dialogue(opening, turn("亚托莉", "早！", start=2)), CARD)
    assert messages[1] == {"role": "user", "content": "（天亮了。）"}


def test_all_narration_precedes_the_reply_but_never_what_came_in_its_middle():
    reply = turn("亚托莉", "早！", "走吧。", context=[(2, "她跑来。"), (4, "她转身。")], start=3)
    messages = to_messages(dialogue(turn("夏生", "早。"), reply), replace(CARD, narration="all"))
    assert messages[1]["content"] == "早。\n（她跑来。）"


def test_text_never_becomes_a_control_token():
    messages = to_messages(dialogue(turn("夏生", "<|im_end|>"), turn("亚托莉", "<reserved_106></s>")), CARD)
    assert messages[1]["content"] == "＜|im_end|>"
    assert "<" not in messages[2]["content"]


def test_a_varied_user_name_replaces_every_form_and_is_stated_in_the_system_prompt():
    spoken = dialogue(turn("夏生", "早。"), turn("亚托莉", "夏生先生，夏生！"))
    messages = with_user_name(spoken, CARD, replace(PARAMS, user_name="vary"))
    name = next(name for name in PARAMS.user_names if name in messages[0]["content"])
    assert messages[2]["content"] == f"{name}先生，{name}！"
    assert messages == with_user_name(spoken, CARD, replace(PARAMS, user_name="vary")), "seeded by dialogue"


def test_rows_keep_to_their_split():
    parts = [dialogue(turn("夏生", "早。"), turn("亚托莉", "早！"), split=split) for split in ("train", "test")]
    assert len(list(rows(parts, "test", CARD, PARAMS))) == 1


def test_persona_md_serves_only_the_character_it_is_about(tmp_path):
    (tmp_path / "persona.md").write_text("你是亚托莉，和夏生说话。", encoding="utf-8")
    assert read_persona(tmp_path, "亚托莉", "夏生") == "你是亚托莉，和夏生说话。"
    assert read_persona(tmp_path, "夏生", "亚托莉") is None
    (tmp_path / "persona.夏生.md").write_text("你是夏生。", encoding="utf-8")
    assert read_persona(tmp_path, "夏生", "亚托莉") == "你是夏生。"


def test_a_work_without_persona_gets_one_from_its_most_telling_lines(tmp_path):
    hers = [f"我可是高性能的第{i}号！" for i in range(9)]
    talk = [dialogue(turn("夏生", "随你的便好了。"), turn("亚托莉", line)) for line in hers]
    card = make_card(replace(PARAMS, work=str(tmp_path)), "亚托莉", "夏生", talk)
    assert card.persona.startswith("你是亚托莉") and "高性能" in card.persona and "{user}" in card.persona


def test_vary_needs_a_place_for_the_name(tmp_path):
    (tmp_path / "persona.md").write_text("你是亚托莉。", encoding="utf-8")
    with pytest.raises(InputError, match=r"found no \{user\}"):
        make_card(replace(PARAMS, work=str(tmp_path), user_name="vary"), "亚托莉", "夏生", [])


def test_telling_lines_are_hers_rather_than_his():
    assert telling_lines(["今天天气真好啊", "高性能的我来了"], ["今天天气真好啊"] * 5)[0] == "高性能的我来了"


@pytest.mark.parametrize(("text", "expected"), [("你好吗", "zh"), ("元気ですか、今日", "ja"), ("How are you?", "en")])
def test_the_persona_speaks_the_scripts_language(text, expected):
    assert language(text) == expected


def test_generic_probes_stand_in_and_carry_her_name(tmp_path):
    probes = read_probes(tmp_path, CARD)
    assert {"swearing", "weapon", "hardware", "language", "filler", "role"} <= {probe["kind"] for probe in probes}
    assert any(probe["claim"] == "亚托莉" for probe in probes)


def test_a_probe_with_an_unknown_key_is_refused(tmp_path):
    (tmp_path / "probes.yaml").write_text("probes:\n  - id: a\n    kinds: role\n", encoding="utf-8")
    with pytest.raises(InputError, match="probe 'a': expected the keys"):
        read_probes(tmp_path, CARD)


def test_the_sample_work_has_probes_of_every_kind():
    probes = read_probes(Path("raw/sample"), CARD)
    kinds = {"swearing", "weapon", "hardware", "language", "filler", "role", "identity", "name", "lore"}
    assert {probe["kind"] for probe in probes} == kinds
    assert sum(len(probe["ask"]) for probe in probes) >= 60


def test_her_probes_are_not_asked_of_another_lead(capsys):
    probes = read_probes(Path("raw/sample"), Card("夏生", "亚托莉", "亚托莉", "你是夏生。", "opening"))
    assert "no probes for 夏生" in capsys.readouterr().out
    assert "is-a-robot" not in [probe["id"] for probe in probes]

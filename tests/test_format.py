"""Messages, persona and probes of a work."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from stages.format import FormatParams, check, make_card, read_persona, read_probes, rows, with_lore, with_user_name
from stages.messages import Card, to_messages
from stages.params import read_text
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


@pytest.mark.parametrize(
    ("partner", "text", "expected"),
    [
        ("Al", "Also, Al's pal Al! (Al) Alé", "Also, 小满's pal 小满! (小满) Alé"),
        ("Al", "我是Al先生，Al。", "我是小满先生，小满。"),
        ("José", "José, Joséphine", "小满, Joséphine"),
        ("阿Al", "小阿Al, 阿Also", "小小满, 阿Also"),
        ("夏生", "夏生先生，小夏生", "小满先生，小小满"),
        ("A. (B)", "A. (B) AxB", "小满 AxB"),
    ],
)
def test_a_varied_user_name_replaces_a_latin_name_as_a_whole_word_alone(partner, text, expected):
    card = replace(CARD, partner=partner, user_name=partner)
    spoken = dialogue(turn(partner, "早。"), turn("亚托莉", text))
    messages = with_user_name(spoken, card, replace(PARAMS, user_name="vary", user_names=["小满"]))
    assert messages[2]["content"] == expected
    assert messages[0]["content"] == "你是亚托莉。对方叫小满。"


def test_a_drawn_name_is_taken_to_the_letter():
    spoken = dialogue(turn("夏生", "早。"), turn("亚托莉", "夏生！"))
    messages = with_user_name(spoken, CARD, replace(PARAMS, user_name="vary", user_names=[r"\1\g<0>"]))
    assert messages[2]["content"] == r"\1\g<0>！"


def test_rows_keep_to_their_split():
    parts = [dialogue(turn("夏生", "早。"), turn("亚托莉", "早！"), split=split) for split in ("train", "test")]
    assert len(list(rows(parts, "test", CARD, PARAMS))) == 1


def test_persona_md_serves_only_the_character_it_is_about(tmp_path):
    (tmp_path / "persona.md").write_text("你是亚托莉，和夏生说话。", encoding="utf-8")
    assert read_persona(tmp_path, "亚托莉", "夏生") == ("你是亚托莉，和夏生说话。", "")
    assert read_persona(tmp_path, "夏生", "亚托莉")[0] is None
    (tmp_path / "persona.夏生.md").write_text("你是夏生。", encoding="utf-8")
    assert read_persona(tmp_path, "夏生", "亚托莉") == ("你是夏生。", "")
    (tmp_path / "persona.亚托莉.md").write_text("\n", encoding="utf-8")
    assert read_persona(tmp_path, "亚托莉", "夏生") == ("你是亚托莉，和夏生说话。", ""), "an empty own one is none"


def test_a_work_without_persona_gets_one_from_its_most_telling_lines(tmp_path):
    hers = [f"我可是高性能的第{i}号！" for i in range(9)]
    talk = [dialogue(turn("夏生", "随你的便好了。"), turn("亚托莉", line)) for line in hers]
    card = make_card(replace(PARAMS, work=str(tmp_path)), "亚托莉", "夏生", talk)
    assert card.persona.startswith("你是亚托莉") and "高性能" in card.persona and "{user}" in card.persona


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("persona.txt", "你是亚托莉。", "no persona.md for 亚托莉 in"),
        ("persona.md", "学长和星野。", "persona.md does not name 亚托莉, so it is not used (name it persona.亚托莉.md"),
        (
            "persona.md",
            "夏生说，亚托莉在。",
            "persona.md names 夏生 before 亚托莉, so it is not used (name it persona.亚托",
        ),
        ("persona.md", " \n", "persona.md is empty (write who"),
        ("persona.亚托莉.md", "", "persona.亚托莉.md is empty (write who"),
    ],
)
def test_why_a_persona_is_made_is_said_as_it_is(tmp_path, capsys, name, text, reason):
    (tmp_path / name).write_text(text, encoding="utf-8")
    card = make_card(
        replace(PARAMS, work=str(tmp_path)), "亚托莉", "夏生", [dialogue(turn("亚托莉", "高性能的我来了"))]
    )
    assert reason in capsys.readouterr().out
    assert "高性能" in card.persona


@pytest.mark.parametrize("place", ["｛user｝", "{User}", "{ user }", "{{user}}", "{character}", "{{char}}"])
def test_a_place_in_a_persona_that_nothing_fills_in_is_refused(tmp_path, place):
    (tmp_path / "persona.md").write_text(f"你是亚托莉。和你说话的人叫{place}。", encoding="utf-8")
    with pytest.raises(InputError, match=rf"persona\.md: expected {{user}}, .* got {re.escape(place)}\n"):
        read_persona(tmp_path, "亚托莉", "夏生")


def test_vary_needs_a_place_for_the_name(tmp_path):
    (tmp_path / "persona.md").write_text("你是亚托莉。", encoding="utf-8")
    with pytest.raises(InputError, match=r"found no \{user\}"):
        make_card(replace(PARAMS, work=str(tmp_path), user_name="vary"), "亚托莉", "夏生", [])


@pytest.mark.parametrize("partner", ["我", "光", "I", "You", "ぼく"])
def test_vary_refuses_a_partner_whose_name_is_a_pronoun_or_a_part_of_words(tmp_path, partner):
    (tmp_path / "persona.md").write_text("你是亚托莉。和你说话的人叫{user}。", encoding="utf-8")
    params = replace(PARAMS, work=str(tmp_path))
    assert make_card(params, "亚托莉", partner, []).partner == partner, "kept, it does no harm"
    with pytest.raises(InputError, match=f"got '{partner}'\nhint: `format.user_name: keep`"):
        make_card(replace(params, user_name="vary"), "亚托莉", partner, [])


@pytest.mark.parametrize("partner", ["夏生", "Al", "X"])
def test_vary_takes_a_name_that_is_a_word(tmp_path, partner):
    (tmp_path / "persona.md").write_text("你是亚托莉。和你说话的人叫{user}。", encoding="utf-8")
    assert make_card(replace(PARAMS, work=str(tmp_path), user_name="vary"), "亚托莉", partner, []).partner == partner


@pytest.mark.parametrize("names", [[1, 2], [""], [None]])
def test_user_names_that_are_none_are_refused(names):
    with pytest.raises(InputError, match=r"`format.user_names`: expected a list of names, got .*\nhint: quotes around"):
        check(replace(PARAMS, user_name="vary", user_names=names))


def test_telling_lines_are_hers_rather_than_his():
    assert telling_lines(["今天天气真好啊", "高性能的我来了"], ["今天天气真好啊"] * 5)[0] == "高性能的我来了"


def test_no_telling_line_holds_a_variable_that_a_game_would_fill_in():
    assert telling_lines(["{player_name}，高性能的我来了", "高性能的我来了吗"], ["好。"]) == ["高性能的我来了吗"]


@pytest.mark.parametrize(("text", "expected"), [("你好吗", "zh"), ("元気ですか、今日", "ja"), ("How are you?", "en")])
def test_the_persona_speaks_the_scripts_language(text, expected):
    assert language(text) == expected


def test_generic_probes_stand_in_and_carry_her_name(tmp_path):
    probes = read_probes(tmp_path, CARD)
    assert {"swearing", "weapon", "hardware", "language", "filler", "role"} <= {probe["kind"] for probe in probes}
    assert any(probe["claim"] == "亚托莉" for probe in probes)


def test_a_probe_with_an_unknown_key_is_refused(tmp_path):
    (tmp_path / "probes.yaml").write_text("probes:\n  - id: a\n    kinds: role\n", encoding="utf-8")
    with pytest.raises(InputError, match="probe 'a': missing kind, ask, expect, claim; unknown kinds\nhint: expected"):
        read_probes(tmp_path, CARD)


PROBE = {"id": "a", "kind": "role", "ask": ["你是谁？"], "expect": "deny", "claim": "是AI"}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([{"id": "a"}], "expected `probes:` with a list of probes under it, got [{'id': 'a'}]"),
        ({"probes": None}, "expected `probes:` with a list of probes under it, got None"),
        (None, "expected `probes:` with a list of probes under it, got None"),
        ({"probes": ["你是谁？"]}, "expected a probe, that is the keys"),
        ({"probes": [{**PROBE, "kind": "rol"}]}, "got 'rol'"),
        ({"probes": [{**PROBE, "expect": "denied"}]}, "`expect`: expected one of affirm, deny, free; got 'denied'"),
        ({"probes": [{**PROBE, "claim": "是(AI"}]}, "expected a regular expression, got '是(AI'"),
        ({"probes": [{**PROBE, "ask": "你是谁？"}]}, "`ask`: expected a list of texts, got '你是谁？'"),
        ({"probes": [{**PROBE, "ask": [["你好", 1]]}]}, "`ask`: expected a list of texts"),
        ({"probes": [{**PROBE, "ask": []}]}, "`ask`: expected a question or more, got []"),
        (
            {"probes": [{**PROBE, "forbid": "混蛋"}]},
            "`forbid`: expected a list of texts, got '混蛋'\nhint: write `forbid: [",
        ),
        ({"probes": [{**PROBE, "ask": ["你好，{user}。"]}]}, "probe 'a': expected {character}, the one place that is"),
        ({"probes": [{**PROBE, "claim": "｛character｝"}]}, "got ｛character｝\nhint: half-width braces"),
        ({"probes": [{**PROBE, "wrong": 7}]}, "`wrong`: expected a list of texts, got 7"),
        ({"probes": [{**PROBE, "right": 7}]}, "`right`: expected a text, got 7"),
    ],
)
def test_probes_that_evaluate_could_not_ask_are_refused_before_the_training(tmp_path, document, reason):
    path = tmp_path / "probes.yaml"
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_probes(tmp_path, CARD)
    assert str(error.value).startswith(f"{path}: ") and reason in str(error.value)


def test_a_long_probe_is_refused_in_a_short_message(tmp_path):
    document = {"probes": [{**PROBE, "ask": [["x" * 10_000, 7]]}]}
    (tmp_path / "probes.yaml").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(InputError) as error:
        read_probes(tmp_path, CARD)
    assert "`ask`: expected" in str(error.value) and len(str(error.value)) < 2000


def test_a_good_probe_of_texts_and_talks_is_taken_as_it_is(tmp_path):
    (tmp_path / "probes.yaml").write_text(json.dumps({"probes": [{**PROBE, "forbid": ["混蛋"]}]}), encoding="utf-8-sig")
    (row,) = read_probes(tmp_path, CARD)
    assert (row["ask"], row["forbid"], row["wrong"]) == (["你是谁？"], ["混蛋"], [])


def test_a_probe_that_its_own_answers_contradict_is_named(tmp_path, capsys):
    row = {**PROBE, "right": "我是AI。", "wrong": ["我是AI。", "我是显卡。"]}
    (tmp_path / "probes.yaml").write_text(json.dumps({"probes": [row]}), encoding="utf-8")
    read_probes(tmp_path, CARD)
    said = capsys.readouterr().out
    assert "probe 'a': by its own patterns '我是AI。' would fail" in said and "'我是显卡。' would pass" in said


def test_the_generic_probes_agree_with_their_own_answers(tmp_path, capsys):
    read_probes(tmp_path, CARD)
    assert "by its own patterns" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["persona.md", "probes.yaml"])
def test_a_file_of_the_work_in_another_encoding_is_refused_with_the_cure(tmp_path, name):
    (tmp_path / name).write_bytes("# one\n你是亚托莉。\n".encode("gb18030"))
    with pytest.raises(
        InputError, match=rf"{name}: expected UTF-8, got the byte 0x.. in line 2\nhint: save it as UTF-8, or,"
    ):
        read_persona(tmp_path, "亚托莉", "夏生")
        read_probes(tmp_path, CARD)


@pytest.mark.parametrize("name", ["persona.md", "persona.亚托莉.md", "probes.yaml"])
def test_a_file_of_the_work_that_is_a_link_out_of_it_is_refused(tmp_path, name):
    (tmp_path / "secret").write_text("probes: [{id: 亚托莉}]\n", encoding="utf-8")
    work = tmp_path / "work"
    work.mkdir()
    (work / name).symlink_to("../secret")
    with pytest.raises(InputError, match=rf"{name}: expected a file inside .*work, got a link out of it\nhint: copy"):
        read_persona(work, "亚托莉", "夏生")
        read_probes(work, CARD)


def test_the_command_that_the_hint_names_makes_the_file_utf_8(tmp_path):
    path = tmp_path / "my persona.md"
    path.write_bytes("你是亚托莉。\n".encode("gb18030"))
    with pytest.raises(InputError) as error:
        read_text(path)
    subprocess.run(str(error.value).rpartition("GB18030: ")[2], shell=True, check=True)
    assert read_text(path) == "你是亚托莉。\n"


def test_lore_that_is_on_without_its_folder_is_refused(tmp_path):
    params = replace(PARAMS, lore="on", work=str(tmp_path))
    with pytest.raises(InputError, match=r"`format\.lore: on` expected the folder .*lore, found none\nhint: .*`format"):
        with_lore([], [], [], CARD, params)


def test_the_sample_work_has_probes_of_every_kind():
    probes = read_probes(Path("raw/sample"), CARD)
    kinds = {"swearing", "weapon", "hardware", "language", "filler", "role", "identity", "name", "lore"}
    assert {probe["kind"] for probe in probes} == kinds
    assert sum(len(probe["ask"]) for probe in probes) >= 60


def test_her_probes_are_not_asked_of_another_lead(capsys):
    probes = read_probes(Path("raw/sample"), Card("夏生", "亚托莉", "亚托莉", "你是夏生。", "opening"))
    assert "no probes for 夏生" in capsys.readouterr().out
    assert "is-a-robot" not in [probe["id"] for probe in probes]

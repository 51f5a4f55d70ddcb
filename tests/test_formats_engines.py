"""The engine formats: each reads its cases, understands its own structure, and survives any text in linear time."""

import json
import re
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.formats import FORMATS, Message, Options, Reject
from stages.records import KINDS

CASES = Path(__file__).parent / "cases"
ENGINES = ("renpy", "renpy_tab", "kag", "tyrano", "webgal", "yarn", "naninovel")
SHARED = Path(__file__).parents[2] / "shared" / "cases"
SHARED_CASES = {
    "renpy_question_en": "renpy",
    "renpy_question_schinese": "renpy",
    "renpy_tutorial_schinese": "renpy",
    "webgal_demo_zh_cn": "webgal",
    "yarn_space_en": "yarn",
}
# What each format defines as markup in the shared cases: the pattern, and what is shown in its place.
MARKUP = {
    "renpy": (r"\\(.)|([{[%])\2|\{[^}]*\}|\[(\w+)[^\]]*\]", lambda found: shown_by_renpy(*found.groups())),
    "webgal": (r"\[([^\]]*)\]\([^)]*\)|\|", lambda found: found[1] or ""),
    "yarn": (r"\[\[([^|]*)\|.*?\]\]|#line:\w+", lambda found: found[1] or ""),
}


def shown_by_renpy(escaped: str | None, doubled: str | None, variable: str | None) -> str:
    if escaped:
        return "\n" if escaped == "n" else escaped
    return doubled or (f"{{{variable}}}" if variable else "")


def texts(folder: Path) -> dict[str, str]:
    """File -> text of a case."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "expected.jsonl")
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8-sig") for path in files}


def options(scripts: dict[str, str], name: str) -> Options:
    survey = FORMATS[name].survey
    return Options(survey(scripts.values()) if survey else {}, "", "", frozenset())


def rows(name: str) -> Iterator[dict[str, Any]]:
    """What a format reads from its case, as the rows of expected.jsonl."""
    scripts = texts(CASES / name)
    for file, text in scripts.items():
        for item in FORMATS[name].read(text, options(scripts, name)):
            yield {"file": file, **item._asdict()}


def read(name: str, text: str) -> list[Message | Reject]:
    return list(FORMATS[name].read(text, options({"": text}, name)))


def said(name: str, text: str) -> list[tuple[str | None, str]]:
    return [(item.speaker, item.text) for item in read(name, text) if isinstance(item, Message)]


@pytest.mark.parametrize("name", ENGINES)
def test_a_format_reads_its_case_message_by_message(name: str) -> None:
    expected = [orjson.loads(line) for line in (CASES / name / "expected.jsonl").read_bytes().splitlines()]
    assert list(rows(name)) == expected


@pytest.mark.parametrize("name", ENGINES)
def test_a_case_looks_like_its_own_format_and_like_no_other(name: str) -> None:
    for file, text in texts(CASES / name).items():
        scores = {other: FORMATS[other].sniff(text) for other in (*ENGINES, "text")}
        assert max(scores, key=lambda other: scores[other]) == name, f"{file}: {scores}"


@pytest.mark.parametrize("name", ENGINES)
def test_plain_text_and_blank_text_look_like_no_engine(name: str) -> None:
    for text in (
        "",
        "\n \n",
        "夏生：早上好。\n\n亚托莉：「早上好！」\n\n海很安静。\n",
        "# Title\n\n* item: one\n* [link](x)\n",
    ):
        assert FORMATS[name].sniff(text) == 0


def test_renpy_gives_the_first_line_of_each_paragraph_of_a_monologue() -> None:
    text = 'label a:\n    "x"\n    e """\n    One.\n\n    Two.\n    """\n    e "last"\n'
    assert [(item.line, item.text) for item in read("renpy", text)] == [(2, "x"), (4, "One."), (6, "Two."), (8, "last")]


def test_renpy_loses_one_line_to_a_missing_quote_not_the_rest_of_the_file() -> None:
    items = read("renpy", 'label a:\n    e "one\n    e "two"\n    e "three"\n')
    assert [type(item).__name__ for item in items] == ["Reject", "Message", "Message"]


def test_renpy_takes_the_words_of_another_engine_for_rejects_with_their_lines() -> None:
    assert [(item.line, item.text) for item in read("renpy", "label a:\n\n夏生：早上好。\n")] == [(3, "夏生：早上好。")]


def test_renpy_reads_attributes_captions_escapes_and_clauses_as_the_game_shows_them() -> None:
    text = 'label a:\n    e @ happy "一" # c\n    e sad "\\"三\\" 100%% [[x] {{b}" with dissolve\n    nvl clear\n'
    text += '    extend ""\n    menu (screen="x"):\n        "标题"\n        "乙" (tip="t"):\n            "十" id x_1\n'
    text += 'translate schinese strings:\n    old "a"\n    new "b"\n'
    assert said("renpy", text) == [("e", "一"), ("e", '"三" 100% [x] {b}'), (None, "标题"), (None, "乙"), (None, "十")]


def test_renpy_joins_the_halves_of_a_character_that_escapes_spell() -> None:
    text = 'define e = Character("E\\ud83d\\ude00")\nlabel a:\n    e "\\ud83d\\ude00 hi"\n    e "\\ud83d hi\\ude00"\n'
    assert said("renpy", text) == [("E😀", "😀 hi"), ("E😀", "\ufffd hi\ufffd")]
    assert said("renpy_tab", "Identifier\tCharacter\tDialogue\na\te\t\\ud83d\n") == [("e", "\ufffd")]


def test_renpy_reads_a_translation_alone_and_of_several_the_one_with_most_lines() -> None:
    one = 'translate {0} start_1a2b3c4d:\n    e "{0} 1"\n'
    two = one + 'translate {0} start_2a2b3c4d:\n    e "{0} 2"\n'
    assert said("renpy", one.format("german")) == [("e", "german 1")]
    items = read("renpy", one.format("german") + two.format("schinese"))
    assert [item.text for item in items if isinstance(item, Message)] == ["schinese 1", "schinese 2"]
    refused = [(item.line, item.text, item.reason) for item in items if isinstance(item, Reject)]
    assert refused == [(2, "german 1", "a translation (german) beside one into schinese, which is read")]


def test_rows_of_dialogue_tab_that_a_script_beside_it_says_are_rejects_that_say_so() -> None:
    tab = texts(CASES / "renpy_tab")["dialogue.tab"]
    names = options(
        {"dialogue.tab": tab, "script.rpy": 'define lin = Character("林晚")\nlabel start:\n    "x"\n'}, "renpy_tab"
    )
    items = list(FORMATS["renpy_tab"].read(tab, names))
    assert [item.text for item in items if isinstance(item, Message)] == ["借你一半？", "让一让！"]
    reasons = Counter(item.reason for item in items if isinstance(item, Reject))
    assert reasons["said in a script of this folder too, and read there"] == 3


def test_renpy_names_that_a_variable_holds_are_its_text_where_it_never_changes() -> None:
    text = 'define CAT = _("猫")\ndefault you = "Nobody"\ndefine c = Character (CAT)\ndefine d = Character("[CAT]")\n'
    text += (
        'default CAT = "？？？"\ndefine y = Character("you", dynamic=True)\nlabel a:\n    $ you = renpy.input("?")\n'
    )
    assert said("renpy", text + '    c "1"\n    d "2"\n    y "3"\n') == [("猫", "1"), ("猫", "2"), ("{you}", "3")]


def test_renpy_reads_the_block_of_a_statement_that_is_registered_as_script() -> None:
    text = 'init python:\n    renpy.register_statement("party", block="script")\n'
    text += '    renpy.register_statement("note", block=True)\n'
    text += 'label a:\n    party big:\n        e "1"\n    note:\n        e "2"\n'
    assert said("renpy", text) == [("e", "1")]


def test_a_renpy_file_of_definitions_is_known_as_renpy() -> None:
    image = 'layeredimage mai:\n    always:\n        "mai.png"\n    attribute sad:\n        "sad.png"\n'
    assert FORMATS["renpy"].sniff(image) == 1
    text = 'define e = Character("Mai")\n\ndefault moods = {\n    "Mai": 0,\n}\n\n'
    text += 'define names = [\n    "one",\n    "two",\n]\n'
    assert FORMATS["renpy"].sniff(text) == 1


def test_tyrano_reads_a_name_written_out_in_brackets() -> None:
    assert said("tyrano", "#舞\n一[p]\n【猫】二[p]\n三【四】[p]\n") == [("舞", "一"), ("猫", "二"), ("猫", "三【四】")]


def test_webgal_keeps_the_speaker_until_a_colon_without_a_name() -> None:
    text = "舞:一 -v1.ogg;\n二 -next;\n:三;\n四;\nintro:五|六;\n; 七\nsay:八 -speaker=猫;\nsetTextbox:hide;\n"
    assert said("webgal", text) == [("舞", "一"), ("舞", "二"), (None, "三"), (None, "四"), ("猫", "八")]


def test_webgal_knows_its_scenes_beside_plain_text_and_takes_no_speaker_from_the_settings() -> None:
    scene = "舞:一\n舞:二\nintro:三|四;\nchangeScene:b.txt\n"
    assert FORMATS["webgal"].sniff(scene) > FORMATS["text"].sniff(scene)
    assert said("webgal", "Game_name:海;\nGame_key:a1;\nTitle_img:b.png;\n") == []


def test_yarn_takes_what_stands_before_the_first_colon_for_a_name_unless_it_is_a_sentence() -> None:
    lines = ["Mai:one", "???: two", "Mr. Sea: three", "He looked up. It was late: four", "at 12:30", "# Title #line:5"]
    text = "title: a\n---\n" + "\n".join(lines) + "\n===\n"
    assert said("yarn", text)[:3] == [("Mai", "one"), ("???", "two"), ("Mr. Sea", "three")]
    assert {speaker for speaker, _ in said("yarn", text)[3:]} == {None}


@pytest.mark.parametrize(
    ("name", "head"), [("yarn", "title: a\n---\n"), ("naninovel", "@back a\n"), ("webgal", "end;\n")]
)
def test_a_full_width_colon_names_nobody_and_is_hinted_where_it_is_a_habit(name: str, head: str) -> None:
    items = read(name, head + "舞：一\n舞：二\n舞：三\n他想：四\n")
    assert [item.text for item in items if isinstance(item, Message)] == ["舞：一", "舞：二", "舞：三", "他想：四"]
    assert not any(item.speaker for item in items if isinstance(item, Message))
    hints = [item.reason for item in items if isinstance(item, Reject)]
    assert hints == ["`舞：` names nobody: the engine takes `舞: `"] * 3


def test_naninovel_takes_no_quoted_author_and_no_colon_without_space() -> None:
    text = '@back a\n"Mai Lin": one\nMai:two\nMai.Happy: three\n{player}: four\n'
    assert [speaker for speaker, _ in said("naninovel", text)] == [None, None, "Mai", "{player}"]
    assert FORMATS["naninovel"].sniff("@back a\n\none[i] two\nthree\nfour\n") > 0.7


def test_an_identifier_without_definition_stays_the_speaker() -> None:
    assert said("renpy", 'label a:\n    e "hi"\n    names[0] "x"\n') == [("e", "hi"), ("{names[0]}", "x")]


QUOTED = {  # format -> 舞 says the words; nobody does
    "renpy": 'label a:\n    舞 "{0}"\n    "{0}"\n',
    "renpy_tab": "Identifier\tCharacter\tDialogue\na\t舞\t{0}\nb\t\t{0}\n",
    "kag": "【舞】{0}[p]\n{0}[p]\n",
    "tyrano": "#舞\n{0}[p]\n#\n{0}[p]\n",
    "webgal": "舞:{0};\n:{0};\n",
    "yarn": "title: a\n---\n舞: {0}\n{0}\n===\n",
    "naninovel": "@back a\n舞: {0}\n{0}\n",
}


@pytest.mark.parametrize("name", ENGINES)
def test_quotes_that_wrap_a_whole_message_come_off_under_a_name_alone(name: str) -> None:
    text = QUOTED[name]
    assert said(name, text.format("「早。」")) == [("舞", "早。"), (None, "「早。」")]
    assert said(name, text.format("「早」「晚」"))[0] == ("舞", "「早」「晚」"), "two quotations"
    assert said(name, text.format("‘早。’"))[0] == ("舞", "‘早。’"), "another's words, read out"
    assert [item.kind for item in read(name, text.format("（早）"))] == ["thought", "narration"]


def test_quotes_come_off_once_a_message_is_whole() -> None:
    assert said("renpy", 'label a:\n    舞 "「早，"\n    extend "早。」"\n') == [("舞", "早，早。")]
    assert said("renpy", 'label a:\n    舞 "「早」"\n    extend "「晚」"\n') == [("舞", "「早」「晚」")]
    assert said("webgal", "舞:「早，;\n早。」 -concat;\n") == [("舞", "早，早。")]
    assert said("kag", "【舞】\n「早，[r]\n早。」[p]\n") == [("舞", "早，早。")]


def test_kag_takes_the_patterns_of_the_game() -> None:
    game = Options({}, r"\[voice who=(\w+)\]", "k", frozenset())
    items = list(FORMATS["kag"].read("[voice who=mai]a[r]b[k]\nc[k]\n", game))
    assert [(item.speaker, item.text) for item in items] == [("mai", "a b"), (None, "c")]


def test_kag_reads_a_name_before_the_quotation_where_the_game_writes_it_so() -> None:
    text = "舞「一」[p]\n風「二」[p]\n海。[p]\n"
    game = Options({}, r"([^\s「」『』\[\]【】、。…（）]{1,10})(?=[「『])", "", frozenset())
    items = list(FORMATS["kag"].read(text, game))
    assert [(item.speaker, item.text) for item in items] == [("舞", "一"), ("風", "二"), (None, "海。")]
    assert {name for name, _ in said("kag", text)} == {None}


@pytest.mark.parametrize("name", ["{}", "[{}/v1.ogg]", "[{}]", "【{}】", "`{}"])
def test_nscripter_reads_names_before_quotations_that_recur(name: str) -> None:
    text = '*start\nbg "a.bmp",1\n;舞「零」\n舞「一」\\\n彼女は「そう」と言った。\\\n空「二」@\n舞『三』\\\n'
    text = re.sub("^舞", name.format("舞"), text, flags=re.MULTILINE)
    expected = [("舞", "一"), (None, "彼女は「そう」と言った。"), (None, "空「二」"), ("舞", "三")]
    assert said("nscripter", text) == expected
    assert FORMATS["nscripter"].sniff(text) == 0.8
    assert FORMATS["nscripter"].sniff("[cm]\n" + text) == 0.0  # KAG


def test_kag_keeps_the_speaker_where_the_game_clears_names_itself() -> None:
    text = '[nm name="mai"]a[p]\nb[p]\n[nm name=""]c[p]\n'
    assert said("kag", text) == [("mai", "a"), ("mai", "b"), (None, "c")]


def test_kag_finds_the_tag_that_names_where_a_game_calls_it_as_it_likes() -> None:
    text = "@舞 f=1\n「一」[p]\n@晴\n「二」[p]\n@舞\n（三）[p]\n@晴 f=2\n「四」[p]\n@揺れ\n夜。[p]\n"
    text += "@舞\n「五」[p]\n@晴\n六[p]\n@晴\n「七」[p]\n"
    speakers = [("舞", "一"), ("晴", "二"), ("舞", "（三）"), ("晴", "四"), (None, "夜。")]
    assert said("kag", text) == [*speakers, ("舞", "五"), ("晴", "六"), ("晴", "七")]
    text = "".join(f"@line f={n} chara=mai\n「{n}」[p]\n@face file=x\nnight[p]\n" for n in range(3))
    assert said("kag", text)[:3] == [("mai", "0"), (None, "night"), ("mai", "1")]


def test_kag_reads_the_names_of_nvl_maker_which_need_no_quotes() -> None:
    text = '@dia\n夜。[w]\n@npc id="女生"\n喂！[w]\n' + "@葵 fg=a1\n啊。[w]\n@揺れ\n@bg storage=a\n风。[w]\n" * 3
    assert said("kag", text)[:4] == [(None, "夜。"), ("女生", "喂！"), ("葵", "啊。"), (None, "风。")]
    one = "[macro name=葵][npc * id=葵 color=0xfff][endmacro]\n@葵\n啊，[lr]\n葵。[w]\n风。[w]\n"
    assert said("kag", one) == [("葵", "啊，葵。"), (None, "风。")]


def test_kag_takes_no_effect_for_a_speaker_where_names_are_known_or_the_macro_prints_nothing() -> None:
    quake = "[macro name=揺れ][quake time=1][endmacro]\n"
    text = "".join(f"@揺れ\n「{n}」[p]\n" for n in range(4))
    assert {speaker for speaker, _ in said("kag", quake + text)} == {None}
    named = "".join(f"[nm t=舞]\n@揺れ\n「{n}」[p]\n" for n in range(4))
    assert {speaker for speaker, _ in said("kag", named)} == {"舞"}


def test_kag_reads_the_name_that_a_macro_prints() -> None:
    text = '@macro name=her\n[eval exp="f.n=\'舞\'"]\n【[emb exp="f.n"]】[r]\n@endmacro\n'
    text += "[macro name=who][current layer=message1][emb exp=mp.t][current layer=message0][endmacro]\n"
    assert said("kag", text + "@her\n一[p]\n[who t=晴]二[p]\n") == [("舞", "一"), ("晴", "二")]


def test_kag_tags_may_be_in_capitals_and_ruby_stands_beside_its_base() -> None:
    text = "@Talk name=舞\n[港'みなと]へ\n@Hitret id=1\n夜。\n@Hitret id=2\n"
    assert said("kag", text) == [("舞", "港へ"), (None, "夜。")]
    assert FORMATS["kag"].sniff(text) > FORMATS["naninovel"].sniff(text)


def test_a_scenario_keeps_its_last_words_and_a_comment_behind_the_end_is_none_of_them() -> None:
    for name in ("kag", "tyrano"):
        text = "*a\n【舞】一[p]\n[jump target=*b] ; a note\n*b\n[s] ; stop\n二"
        assert said(name, text)[0] == ("舞", "一")
        assert [words for _, words in said(name, text)] == ["一", "二"]


def test_a_tag_with_a_quotation_mark_too_many_costs_no_text() -> None:
    text = '#舞\n[chara_mod name="mai" face="7]一[p]\n[ptext text=&f.a[f.b[f.c]] x=1]二[p]\n'
    assert [tuple(item)[1:3] for item in read("tyrano", text)] == [("舞", "一"), ("舞", "二")]


def test_tyrano_takes_brackets_and_the_manner_off_a_name() -> None:
    assert said("tyrano", "#舞\n一[p]\n二[p]\n#舞\n三[p]\n#舞（小声）\n四[p]\n#晴（母）\n五[p]\n")[2:] == [
        ("舞", "三"),
        ("舞", "四"),
        ("晴（母）", "五"),
    ]
    assert said("tyrano", "#【舞】\n一[p]\n#【舞&晴】:smile\n二[p]\n") == [("舞", "一"), ("舞&晴", "二")]


def test_the_text_of_a_button_is_html() -> None:
    text = '#\n[glink text="Yes,&nbsp;of course<br>now" target=*a]\n'
    assert said("tyrano", text) == [(None, "Yes, of course now")]


def test_a_planted_third_speaker_and_a_planted_label_are_seen() -> None:
    text = 'label a:\n    m "1"\n    s "2"\n    m "3"\n'
    third = text.replace('    s "2"\n', '    t "x"\n    s "2"\n')
    border = text.replace('    s "2"\n', 'label b:\n    s "2"\n')
    assert said("renpy", third) == [("m", "1"), ("t", "x"), ("s", "2"), ("m", "3")]
    assert [item.scene for item in read("renpy", border)] == ["a", "b", "b"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared cases are not beside this checkout")
@pytest.mark.parametrize("case", SHARED_CASES)
def test_a_shared_case_agrees_message_by_message(case: str) -> None:
    name = SHARED_CASES[case]
    expected = shared_events(case, name)
    got: Counter[tuple[str, str, str]] = Counter()
    scripts = texts(SHARED / case / "raw")
    known = options(scripts, name)
    for file, text in scripts.items():
        for item in FORMATS[name].read(text, known):
            assert isinstance(item, Message), f"{file}:{item.line}: {item.reason}"
            got[(file, item.kind if item.kind in ("narration", "choice") else "speech", squeezed(item.text))] += 1
    assert got == expected


def shared_events(case: str, name: str) -> Counter[tuple[str, str, str]]:
    """File, kind and text of each event, an `extend` joined to the event before."""
    kinds = {"say": "speech", "nar": "narration", "choice": "choice"}
    events: list[tuple[str, str, str]] = []
    for line in (SHARED / case / "events.jsonl").read_text("utf-8").splitlines():
        event = json.loads(line)
        if event["kind"] == "scene":
            continue
        text = re.sub(*MARKUP[name], event["text"])
        if event["who"] == "extend":
            file, kind, before = events.pop()
            events.append((file, kind, before + squeezed(text)))
        else:
            events.append((event["file"], kinds[event["kind"]], squeezed(text)))
    return Counter(events)


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


TOKENS = st.sampled_from(
    [
        *(
            '"',
            "'",
            "`",
            '"""',
            "\\",
            "{",
            "}",
            "[",
            "]",
            "(",
            ")",
            "[[",
            "{{",
            "|",
            ":",
            ";",
            "#",
            "@",
            "*",
            "<<",
            ">>",
            "->",
        ),
        *(
            "\n",
            "\n    ",
            "\t",
            " ",
            "　",
            "\r",
            "\x00",
            "\\ud83d",  # half a character as an escape; decoded text has none as it is
            "e ",
            "extend ",
            "label a:",
            "menu:",
            "python:",
            "init:",
        ),
        *(
            "translate zh a_1a2b3c4d:",
            "x = Character(",
            "define ",
            "[nm name=",
            "【a】",
            "[p]",
            "[link]",
            "[endlink]",
            "[emb exp=",
        ),
        *(
            "[macro name=a]",
            "[endmacro]",
            "[iscript]",
            "#a",
            "choose:",
            "label:",
            " -concat",
            "title: a\n---\n",
            "===",
            "[[a|b]]",
        ),
        *(
            "@choice ",
            "@print ",
            "|#1|",
            "text",
            "台词",
            "「",
            "」",
            "，",
            "[text=1 target=2]",
            "/*",
            "{rt}",
            "{p}",
            "%(a)s",
            " with ",
        ),
    ]
)


@pytest.mark.parametrize("name", ENGINES)
@settings(max_examples=60, deadline=None)
@given(text=st.one_of(st.lists(TOKENS, max_size=40).map("".join), st.text(max_size=60)))
@example(text="\n" * 3)
@example(text='e "' + "(" * 300)
@example(text="x = Character(" + "[" * 300)
def test_any_text_gives_only_messages_and_rejects(name: str, text: str) -> None:
    assert 0 <= FORMATS[name].sniff(text) <= 1
    last = text.count("\n") + 1
    for item in read(name, text):
        assert isinstance(item, Message | Reject)
        assert 1 <= item.line <= last
        assert item.text.strip().encode()
        assert isinstance(item, Reject) or (item.kind in KINDS and item.speaker != "")


HOSTILE = (
    'e "',
    '"""',
    "(\n",
    "$ x = (\n",
    "[",
    '["',
    "[a",
    "[a](",
    "【",
    "<<",
    "{",
    "\\",
    "|#",
    "@",
    "@say a",
    "x = Character(",
)
HOSTILE += ("[macro name=a]", "choose:", "if a:\n", '"a" if (', "a ", " -", "=", "#", "*", "a:", "{rt}", "[nm name=")


@pytest.mark.parametrize("name", ENGINES)
def test_a_long_line_of_any_sign_takes_linear_time(name: str) -> None:
    for sign in HOSTILE:
        started = time.process_time()
        text = sign * (60_000 // len(sign))
        FORMATS[name].sniff(text)
        read(name, text)
        assert time.process_time() - started < 5, f"{sign!r} is quadratic"  # a quadratic one takes minutes

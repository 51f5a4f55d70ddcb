"""extract: cases in files, what the report adds up to, names, and real scripts where they lie beside the repository."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from stages.extract import (
    ExtractParams,
    Names,
    Source,
    Tally,
    extract,
    find_sources,
    known_format,
    report,
    speakers,
    suspicious,
    unattributed,
)
from stages.formats import FORMATS
from stages.params import load_params
from stages.records import InputError, Line

ROOT = Path(__file__).parent.parent
CASES = sorted(path.parent for path in (ROOT / "tests/cases/extract").rglob("expected.jsonl"))
REAL = sorted(path.parent for path in (ROOT.parent / "shared/cases").glob("*/events.jsonl"))
PARAMS = replace(
    load_params("extract", ExtractParams, ROOT / "params.yaml"),
    aliases={"亚托莉": ["ATRI"]},
    narrators=["旁白"],
    files={},
)


def run(sources: dict[str, str | bytes], **settings: object) -> tuple[list[dict], Tally]:
    """The rows and the tally of files given by name."""
    data = {name: text.encode() if isinstance(text, str) else text for name, text in sources.items()}
    tally = Tally()
    found = (Source(name, lambda name=name: data[name]) for name in data)
    lines = b"".join(extract(found, replace(PARAMS, **settings), tally))
    return [json.loads(line) for line in lines.split(b"\n") if line], tally


def run_folder(folder: Path, **settings: object) -> tuple[list[dict], Tally]:
    tally = Tally()
    sources = [source for source in find_sources(folder, tally) if source.name != "expected.jsonl"]
    lines = b"".join(extract(sources, replace(PARAMS, **settings), tally))
    return [json.loads(line) for line in lines.split(b"\n") if line], tally


# --- cases


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_a_case_reads_as_expected(case: Path) -> None:
    rows, _ = run_folder(case)
    assert rows == [
        json.loads(line) for line in (case / "expected.jsonl").read_text(encoding="utf-8").split("\n") if line
    ]


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_every_row_is_a_record_of_the_contract(case: Path) -> None:
    rows, _ = run_folder(case)
    for row in rows:
        assert list(row) == ["file", "scene", "line", "speaker", "text", "kind"]
        Line(**row)


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.name)
def test_the_report_adds_up(case: Path) -> None:
    rows, tally = run_folder(case)
    for file in tally.files:
        of_file = [row for row in rows if row["file"] == file["file"]]
        assert file["messages"] == len(of_file)
        assert file["named"] == sum(row["speaker"] is not None for row in of_file)
        assert file["rejects"] == sum(reject["file"] == file["file"] for reject in tally.rejects)
        assert file["structure_lines"] >= 0
        assert file["lines"] == file["blank_lines"] + file["message_lines"] + file["structure_lines"]
    totals = report(tally)
    assert sum(totals["kinds"].values()) == len(rows) == totals["totals"]["messages"]
    assert sum(speaker["lines"] for speaker in speakers(tally)) == totals["totals"]["named"]


def test_each_format_of_the_table_has_a_case() -> None:
    read = {file["format"] for case in CASES for file in run_folder(case)[1].files}
    assert FORMATS.keys() - {"docx"} <= read  # Word documents are made in test_formats_docx


# --- no line vanishes


@pytest.mark.parametrize("case", [case for case in CASES if case.name.startswith("text_")], ids=lambda path: path.name)
def test_every_word_of_a_plain_text_is_in_a_message_a_scene_or_a_reject(case: Path) -> None:
    rows, tally = run_folder(case)
    kept = "".join(f"{row['speaker']}{row['text']}{row['scene']}" for row in rows) + str(tally.rejects)
    kept = kept.replace("亚托莉", "亚托莉ATRI") + "旁白ATRI路人Ａ"
    for source in find_sources(case, Tally()):
        if source.name != "expected.jsonl":
            missing = {mark for mark in source.data().decode() if mark.isalnum() and mark not in kept}
            assert not missing


PLAY = """第一场

何晓：给我吗！
　　藏好了。
　　（停顿）
（老周走到窗边。）
老周：嗯。
何晓：
　　早。
　　走吧。
（灯暗。）
老周：嗯。

［幕落。］
"""


def test_an_indented_line_goes_on_with_the_speech_where_all_else_is_at_the_margin() -> None:
    rows, _ = run({"a.txt": PLAY})
    said = [(row["line"], row["speaker"], row["text"]) for row in rows if row["speaker"]]
    assert said == [
        (3, "何晓", "给我吗！\n藏好了。"),
        (7, "老周", "嗯。"),
        (8, "何晓", "早。\n走吧。"),
        (12, "老周", "嗯。"),
    ]
    assert "（停顿）" in [row["text"] for row in rows if row["speaker"] is None], "a direction is no speech"


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        (PLAY.replace("（", "　　（"), "narration is indented: more of it than of lines at the margin"),
        (PLAY.replace("\n［幕落", "\n　　天亮了。\n［幕落"), "an indented line stands after a blank one"),
        (PLAY.replace("\n老周", "\n　　老周"), "a label is indented"),
        (PLAY.replace("给我吗！", "“给我吗！”").replace("早。\n　　走", "走"), "a quotation ends where it ends"),
    ],
)
def test_an_indented_line_is_narration_where_indents_mean_that_too(changed: str, reason: str) -> None:
    rows, _ = run({"a.txt": changed})
    assert (None, "藏好了。") in [(row["speaker"], row["text"]) for row in rows], reason


# --- names


def test_an_alias_is_folded_in_width_and_trimmed() -> None:
    names = Names({"亚托莉": ["ATRI", "？？？"]}, [])
    assert [names[written] for written in ("ＡＴＲＩ", " ATRI　", "???", "亚托莉")] == ["亚托莉"] * 4


def test_a_pattern_alias_must_match_the_whole_name() -> None:
    names = Names({"亚托莉": ["/(ATRI|亚托莉)的声音/"]}, [])
    assert names["ATRI的声音"] == "亚托莉"
    assert names["ATRI的声音里"] == "ATRI的声音里"


def test_full_width_letters_make_no_second_person() -> None:
    assert Names({}, [])["孩子Ｂ"] == "孩子B"


def test_several_speakers_get_their_canonical_names() -> None:
    assert Names({"亚托莉": ["ATRI"]}, [])["夏生·ATRI"] == "夏生·亚托莉"


def test_what_a_narrator_says_is_narration() -> None:
    rows, _ = run({"a.txt": "夏生：早。\n旁白：雨停了。\n夏生：嗯。\n旁白：又下了。\n"})
    assert [(row["speaker"], row["kind"]) for row in rows[:2]] == [("夏生", "speech"), (None, "narration")]


def test_a_bad_pattern_names_the_alias() -> None:
    with pytest.raises(InputError, match=r"extract\.aliases.*/\(/"):
        Names({"亚托莉": ["/(/"]}, [])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"aliases": {"夏生": "夏声"}}, r"expected a list of names under 夏生, got '夏声'"),
        ({"aliases": {"权藏": None}}, "hint: 权藏: \\[\\] if there are none"),
        ({"aliases": {"夏生": [404]}}, "quotes around a number"),
        (
            {"aliases": {"亚托莉": ["少女", "？？？"], "水菜萌": ["???"]}},
            r"\?\?\? under one name, got it under 亚托莉 and 水",
        ),
        ({"aliases": {"亚托莉": ["少女"], "少女": ["机器人"]}}, "少女 under one name, got it under 亚托莉 and 少女"),
        ({"files": {"a.txt": {"encodng": "gbk"}}}, "expected format, encoding, aliases under 'a.txt'"),
        ({"files": {"a.txt": {"aliases": {"夏生": "夏声"}}}}, "expected a list of names under 夏生"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_named(settings: dict, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        run({"a.txt": "夏生：早。\n"}, **settings)


def test_an_alias_in_full_width_signs_needs_no_proof() -> None:
    rows, _ = run({"a.txt": "夏生：早。\n夏生：嗯。\n船长（猫）：喵。\n"}, aliases={"船长": ["船长（猫）"]})
    assert [row["speaker"] for row in rows] == ["夏生", "夏生", "船长"]


def test_an_alias_of_one_file_holds_there_alone() -> None:
    text = "？？？：早。\n？？？：是我。\n"
    rows, _ = run({"a.txt": text, "b.txt": text}, files={"a.txt": {"aliases": {"亚托莉": ["？？？"]}}})
    assert {(row["file"], row["speaker"]) for row in rows} == {("a.txt", "亚托莉"), ("b.txt", "？？？")}


VARIABLE = """default you = "阿程"
define y = Character("[you]")
label start:
    m "[you]，[you]！[key]呢？"
    y "嗯。"
"""


def test_an_alias_in_braces_fills_a_variable_in_and_without_one_its_value_is_known() -> None:
    rows, tally = run({"a.rpy": VARIABLE}, aliases={"阿程": ["{you}"]})
    assert [(row["speaker"], row["text"]) for row in rows] == [("m", "阿程，阿程！{key}呢？"), ("阿程", "嗯。")]
    assert tally.variables == {"{you}": "阿程"}
    rows, _ = run({"a.rpy": VARIABLE}, files={"b.rpy": {"aliases": {"阿程": ["{you}"]}}})
    assert rows[0]["text"] == "{you}，{you}！{key}呢？", "only where the alias holds"


def test_rare_names_near_a_frequent_one_are_suspicious() -> None:
    found = suspicious({"夏生": 40, "夏声": 1, "邮递员小林": 2, "小林": 9, "真帆": 5})
    assert [(entry["name"], entry["near"]) for entry in found] == [("夏声", ["夏生"]), ("邮递员小林", ["小林"])]


def test_short_files_prove_each_others_names() -> None:
    files = {
        f"{number}.txt": f"春日：第{number}天。\n雨还在下，我们都没有带伞，只好等着。\n没有人说话。\n"
        for number in (1, 2)
    }
    rows, _ = run(files)
    assert [row["speaker"] for row in rows].count("春日") == 2


def test_the_scripts_beside_an_exported_dialogue_name_its_identifiers() -> None:
    export = "Identifier\tCharacter\tDialogue\tFilename\nstart_1a2b3c4d\tlin\t下雨了。\tgame/script.rpy\n"
    definitions = 'define lin = Character("林")\n\nlabel start:\n    return\n'
    rows, _ = run({"a/dialogue.tab": export, "b/script.rpy": definitions})
    assert [(row["speaker"], row["text"]) for row in rows] == [("林", "下雨了。")]


MARKED = '*start\n[chara_new name="mai" jname="舞"]\n#mai\n傘は？[p]\n'
UNMARKED = "*next\n[cm]\n【猫】\nニャー。[p]\n[bg storage=a.jpg]\nまたニャー。[p]\n"


def test_one_file_that_shows_the_engine_decides_for_the_other_scenarios() -> None:
    rows, tally = run({"a.ks": UNMARKED, "b.ks": MARKED})
    assert [file["format"] for file in tally.files] == ["tyrano", "tyrano"]
    assert "other files are tyrano" in tally.files[0]["format_why"]
    assert [row["speaker"] for row in rows] == ["猫", "猫", "舞"]  # KAG would forget the cat at [p]
    assert [file["format"] for file in run({"a.ks": UNMARKED})[1].files] == ["kag"]


def test_a_chance_mark_in_one_file_of_many_and_a_forced_format_decide_nothing() -> None:
    many = {f"{number:02}.ks": UNMARKED for number in range(10)}
    assert [file["format"] for file in run({**many, "z.ks": MARKED})[1].files] == ["kag"] * 10 + ["tyrano"]
    _, tally = run({"a.ks": UNMARKED, "b.ks": MARKED}, files={"a.ks": {"format": "kag"}})
    assert [file["format"] for file in tally.files] == ["kag", "tyrano"]


def test_the_wanted_translation_of_a_game_is_read_in_the_place_of_its_original() -> None:
    original = (
        'define m = Character(_("Mai"))\nlabel rain:\n    m "Umbrella?"\n    menu:\n'
        '        "Yes.":\n            m "Good."\n'
        'label extra:\n    m "Not translated."\n'
    )
    chinese = (
        'translate schinese rain_0a1b2c3d:\n\n    # m "Umbrella?"\n    m "带伞了吗？"\n\n'
        'translate schinese rain_0a1b2c3e:\n\n    # m "Good."\n    m "好。"\n\n'
        'translate schinese strings:\n\n    old "Mai"\n    new "舞"\n\n    old "Yes."\n    new "带了。"\n'
    )
    game = {"a.rpy": original, "tl/schinese/a.rpy": chinese, "tl/ja/a.rpy": chinese.replace("schinese", "ja")}
    rows, tally = run(game, renpy_language="schinese")
    said = [(row["speaker"], row["text"]) for row in rows]
    assert said == [(None, "带了。"), ("舞", "Not translated."), ("舞", "带伞了吗？"), ("舞", "好。")]
    assert sorted({reject["reason"] for reject in tally.rejects}) == [
        "a translation (ja), extract.renpy_language is schinese",
        "what a translation (schinese) of this folder says",
    ]
    rows, tally = run(game)
    assert [row["text"] for row in rows] == ["Umbrella?", "Yes.", "Good.", "Not translated."]
    assert "extract.renpy_language: schinese reads it" in str(tally.rejects)
    with pytest.raises(InputError, match="expected one of ja, schinese, got 'english'"):
        run(game, renpy_language="english")


@pytest.mark.parametrize("mention", ["# {}", 'define t = "{}"'])
def test_a_translation_that_is_only_mentioned_takes_no_labels_place(mention: str) -> None:
    mention = mention.format("translate german start_0badcafe:")
    game = f'{mention}\nlabel start:\n    "One."\nlabel end:\n    "Two."\n'
    translation = 'translate german end_1a2b3c4d:\n    "Zwei."\n'
    rows, tally = run({"a.rpy": game, "tl/german/a.rpy": translation}, renpy_language="german")
    assert [row["text"] for row in rows] == ["One.", "Zwei."]
    assert [(reject["line"], reject["text"]) for reject in tally.rejects] == [(5, "Two.")]


def test_a_file_with_an_engines_suffix_is_no_plain_text_beside_its_scripts() -> None:
    book = 'define words = [\n    ("灯台", "说明：海边的高塔。"),\n    ("雾", "说明：低低的云。"),\n]\n' * 4
    script = 'define m = Character("舞")\nlabel start:\n    m "带伞了吗？"\n    "雨停了。"\n'
    notes = "舞：伞呢？\n猫：喵。\n舞：给你。\n"
    rows, tally = run({"a.rpy": script, "book.rpy": book, "notes.txt": notes})
    assert [file["format"] for file in tally.files] == ["renpy", "renpy", "text"]
    assert [row["speaker"] for row in rows] == ["舞", None, "舞", "猫", "舞"]
    assert [file["format"] for file in run({"book.rpy": notes})[1].files] == ["text"], "a suffix alone decides nothing"


# --- settings


def test_a_forced_format_is_taken_and_said() -> None:
    _, tally = run({"a.txt": "夏生：早。\n夏生：嗯。\n"}, format="csv")
    assert tally.files[0]["format"] == "csv"
    assert tally.files[0]["format_why"] == "set in params.yaml"


def test_a_file_may_have_its_own_format_and_encoding() -> None:
    text = "夏生：早。\n夏生：嗯。\n".encode("gb18030")
    rows, tally = run({"a/b.dat": text}, files={"a/*": {"format": "text", "encoding": "gb18030"}})
    assert (tally.files[0]["format"], tally.files[0]["encoding"], rows[0]["text"]) == ("text", "gb18030", "早。")


def test_an_unknown_format_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="expected one of text, docx"):
        known_format("word")


def test_a_file_of_definitions_that_says_nothing_is_no_file_of_the_wrong_format() -> None:
    _, tally = run({"defs.rpy": 'define m = Character("舞")\n'})
    assert tally.files[0]["messages"] == 0 and "note" not in tally.files[0]


def test_a_works_own_files_beside_its_script_are_no_script(tmp_path: Path) -> None:
    own = ("persona.md", "persona.舞.md", "probes.yaml", "lore/a.md", "lore/b.wiki")
    script = ("a.txt", "lore/a.txt", "part/persona.md", "personal.md")
    for name in (*own, *script):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("舞：早。\n", encoding="utf-8")
    tally = Tally()
    assert {source.name for source in find_sources(tmp_path, tally)} == set(script)
    assert {row["file"] for row in tally.skipped} == set(own)
    assert "persona, probes or lore" in tally.skipped[0]["reason"]


def test_a_file_in_the_place_of_the_folder_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("舞：早。\n", encoding="utf-8")
    with pytest.raises(InputError, match=rf"got the file .*a\.txt\nhint: name its folder, {tmp_path}$"):
        find_sources(tmp_path / "a.txt", Tally())


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"extract\.source"):
        find_sources(tmp_path / "none", Tally())


def test_the_same_input_gives_the_same_bytes() -> None:
    sources = [Source("a.txt", lambda: "夏生：早。\nATRI：早。\n".encode()) for _ in range(2)]
    first, second = (b"".join(extract([source], PARAMS, Tally())) for source in sources)
    assert first == second


def test_a_text_that_names_nobody_says_so() -> None:
    _, tally = run({"a.txt": "The lamp went out.\nNobody came.\n"})
    assert "nobody is named" in tally.files[0]["note"]


def test_quotations_that_nobody_could_be_given_are_counted() -> None:
    _, tally = run_folder(ROOT / "tests/cases/extract/prose_zh")
    assert tally.files[0]["unattributed"] == 2


FIRST_PERSON = """清晨的雾还没有散。

“你来得真早。”我说道。

星野笑道：“我睡不着。”

“那就走吧。”我说。

我问道：“带了灯吗？”

“带了。”星野答道。

我叹了口气，说：“路很远。”

“我不怕。”星野说。
"""


def test_a_narrator_who_says_i_becomes_a_speaker_by_the_alias_that_the_note_names() -> None:
    _, tally = run({"a.txt": FIRST_PERSON}, aliases={})
    note = unattributed(report(tally))
    assert note is not None and note.startswith("4 of 9 messages are quotations that nobody could be given")
    assert "`extract.aliases: {我: []}`" in note
    rows, tally = run({"a.txt": FIRST_PERSON}, aliases={"我": []})
    assert unattributed(report(tally)) is None
    assert Counter(row["speaker"] for row in rows if row["kind"] == "speech") == {"我": 4, "星野": 3}


DESCRIBED = """海上起了雾。

“把灯点上。”戴帽子的男人说。

沈砚道：“我说过，已经点了。”

“那就好。”戴帽子的男人笑道。

“三点了。”沈砚说。

“我问你，去睡吧。”戴帽子的男人又说。

“晚安。我说。”沈砚答道。
"""


def test_a_novel_that_nobody_tells_as_i_is_told_how_to_name_those_it_describes() -> None:
    rows, tally = run({"a.txt": DESCRIBED}, aliases={})
    note = unattributed(report(tally))
    assert note is not None and note.startswith("3 of 10 messages") and "`extract.aliases: {戴帽子的男人: []}`" in note
    rows, tally = run({"a.txt": DESCRIBED}, aliases={"戴帽子的男人": []})
    assert unattributed(report(tally)) is None, "what the note says works"
    assert Counter(row["speaker"] for row in rows if row["kind"] == "speech") == {"戴帽子的男人": 3, "沈砚": 3}


def test_of_an_english_novel_the_note_is_the_count_alone() -> None:
    english = (
        "“Good,” said the old captain.\n\nMai said, “Three.”\n\n“Night,” Mai said.\n\n“So,” Mai said.\n\nHe slept.\n"
    )
    _, tally = run({"a.txt": english}, aliases={})
    note = unattributed(report(tally), share=0)
    assert note == "1 of 6 messages are quotations that nobody could be given"


# --- real scripts, where the folder is there

BASE_TEXT = re.compile(r"\[([^\[\]]*)\]\((?:\\.|[^)])*\)")  # WebGAL: [text](ruby or style)
MARKUP = re.compile(r"\{[^{}]*\}|\[[^\[\]]*\]|<[^<>]*>|#\S+|\\n|\W")
TWICE_BLANK = {"play_tinyshakespeare_en": 2}  # speeches after two blank lines, which the other count took for narration


def letters(text: str) -> str:
    return MARKUP.sub("", BASE_TEXT.sub(r"\1", text))


def real_case(case: Path) -> tuple[list[dict], Tally, list[dict]]:
    rows, tally = run_folder(case / "raw", aliases={}, narrators=[])
    events = (case / "events.jsonl").read_text(encoding="utf-8").split("\n")
    return rows, tally, [event for line in events if line and (event := json.loads(line))["who"] != "extend"]


@pytest.mark.skipif(not REAL, reason="no folder of real scripts beside the repository")
@pytest.mark.parametrize("case", REAL, ids=lambda path: path.name)
def test_a_real_script_agrees_with_its_independent_count(case: Path) -> None:
    rows, tally, events = real_case(case)
    said = Counter((row["file"], row["line"]) for row in rows if row["speaker"] is not None)
    told = Counter((e["file"], e["line"]) for e in events if e["kind"] == "say" and e["text"].strip())
    assert (said - told).total() == TWICE_BLANK.get(case.name, 0)
    assert not told - said
    silent = sum(event["kind"] == "say" and not event["text"].strip() for event in events)
    assert sum("without words" in reject["reason"] for reject in tally.rejects) == silent
    narration = sum(event["kind"] == "nar" for event in events)
    heard = sum(row["speaker"] is None and row["kind"] != "choice" for row in rows) + TWICE_BLANK.get(case.name, 0)
    approximate = 0.05 if "+-5 %" in (case / "expected.json").read_text(encoding="utf-8") else 0
    assert abs(heard - narration) <= approximate * narration
    assert sum(row["kind"] == "choice" for row in rows) == sum(event["kind"] == "choice" for event in events)


@pytest.mark.skipif(not REAL, reason="no folder of real scripts beside the repository")
@pytest.mark.parametrize("case", REAL, ids=lambda path: path.name)
def test_a_real_script_says_what_its_independent_reading_says(case: Path) -> None:
    rows, _, events = real_case(case)
    ours = {(row["file"], row["line"]): letters(row["text"]) for row in rows}
    for event in events:
        if event["kind"] == "say" and event["text"].strip():
            said = ours[event["file"], event["line"]]
            assert said.startswith(letters(event["text"]))  # it may go on: Ren'Py's extend

"""Hostile input ends in a clear error or in counted rejects, in bounded time."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.extract import LONGEST_MESSAGE, ExtractParams, Names, Source, Tally, extract, find_sources, report
from stages.formats import FORMATS, Message, Options, Reject
from stages.params import load_params
from stages.records import KINDS, InputError

ROOT = Path(__file__).parent.parent
PARAMS = replace(load_params("extract", ExtractParams, ROOT / "params.yaml"), aliases={}, narrators=[], files={})
OPTIONS = Options({}, PARAMS.kag_name, PARAMS.kag_end, frozenset())
READERS = sorted(FORMATS)
MARKS = """
夏生 ATRI ： : 「 」 “ ” " ' ( ) （ ） [ ] 【 】 { } < > # * ; @ | \\ / // /* */ - -- --- -> = == === 选项
第一幕 说： said 。 , label define menu: extend translate [p] [r] [ruby <<if INT. choose: 0:00:01.00 -->
Dialogue: [Script WEBVTT \u2028 \x85 𝄞
"""
LINES = (
    "define e = Character('E')",
    'e "',
    '"""',
    "title: A",
    '{"name": "a", "message": "b"}',
    "name,text",
    "    ",
    "\t",
)
PIECES = st.sampled_from((*MARKS.replace("\n", " ").split(" "), *LINES, "\n", "\n\n"))
TEXTS = st.lists(PIECES, max_size=60).map("".join)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    begun = time.process_time()
    yield
    assert time.process_time() - begun < seconds


def rows_of(data: bytes, name: str = "a.txt") -> tuple[list[dict], Tally]:
    tally = Tally()
    lines = b"".join(extract([Source(name, lambda: data)], PARAMS, tally))
    return [json.loads(line) for line in lines.split(b"\n") if line], tally


# --- fuzz


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS)
def test_any_text_gives_messages_and_rejects_of_its_lines(name: str, text: str) -> None:
    lines = text.count("\n") + 1
    assert 0 <= FORMATS[name].sniff(text) <= 1
    last = 1
    for item in FORMATS[name].read(text, OPTIONS):
        assert isinstance(item, Message | Reject)
        assert 1 <= item.line <= lines
        if isinstance(item, Message):
            assert last <= item.line
            last = item.line
            assert item.text.strip()
            assert item.kind in KINDS
            assert item.speaker is None or item.speaker.strip()


@settings(max_examples=150, deadline=None)
@given(
    data=st.binary(max_size=300) | TEXTS.map(str.encode),
    name=st.sampled_from(["a.txt", "a.rpy", "a.json", "a.ks", "a.docx"]),
)
def test_any_bytes_give_rows_or_one_clear_error(data: bytes, name: str) -> None:
    try:
        rows, tally = rows_of(data, name)
    except InputError as error:
        assert str(error).startswith(f"{name}: expected ")
    else:
        assert len(rows) == tally.files[0]["messages"]


# --- size


LONG = 200_000
RUNS = {
    "one letter": "a" * LONG,
    "spaces": " " * LONG + "a",
    "full-width spaces": "夏" + "　" * LONG + "生",
    "opening brackets": "[" * LONG,
    "opening braces": "{" * LONG,
    "opening quotes": "「" * LONG,
    "straight quotes": '"' * (LONG - 1),
    "escapes": '"' + "\\" * LONG,
    "colons": "夏：" * (LONG // 2),
    "stars": "* " * (LONG // 2),
    "angles": "<" * LONG,
    "newlines": "\n" * LONG,
    "comments": "/*" * (LONG // 2),
    "names": "夏生：" + "a    夏生：" * (LONG // 8),
    "verbs": "“早。”" + "夏生笑着说着" * (LONG // 6),
    "many short quotes": "“早”说" * (LONG // 4),
    "ruby": "[ruby text=" * (LONG // 11),
    "links": "[[" * (LONG // 2),
}


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.parametrize("name", READERS)
def test_no_reader_takes_long_over_a_long_line(name: str, run: str) -> None:
    with within(10.0):  # what grows with the square takes minutes
        FORMATS[name].sniff(RUNS[run][: 1 << 16])
        for _ in FORMATS[name].read(RUNS[run], OPTIONS):
            pass


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("fountain", " *a" * (LONG // 3)),
        ("fountain", "INT. A" + " " * LONG + "x"),
        ("ink", "a" + " " * LONG + "x!"),
        ("twee", "</a" * (LONG // 3)),
        ("twee", "(a:" * (LONG // 3)),
        ("twee", ":: a" + " " * LONG + "]"),
        ("aozora", "［＃" * (LONG // 2)),
        ("subtitles", "<v a" * (LONG // 4)),
    ],
)
def test_no_mark_that_a_format_never_closes_takes_long(name: str, line: str) -> None:
    with within(10.0):  # what grows with the square takes minutes
        for _ in FORMATS[name].read(line, OPTIONS):
            pass


def test_a_message_that_no_person_wrote_is_rejected_with_its_line() -> None:
    rows, tally = rows_of(("夏生：早。\n" + "a" * (LONGEST_MESSAGE + 1) + "\n夏生：嗯。\n").encode())
    assert len(rows) == 2
    assert [(reject["line"], reject["reason"]) for reject in tally.rejects] == [(2, "a message of 20001 characters")]


def test_a_name_of_ten_thousand_characters_is_rejected() -> None:
    data = json.dumps([{"name": "a" * 10_000, "message": "b"}]).encode()
    rows, tally = rows_of(data, "a.json")
    assert not rows
    assert tally.rejects[0]["reason"] == "a name of 10000 characters"


def test_deep_nesting_in_json_is_rejected() -> None:
    rows, tally = rows_of(b'[{"a":' * 50_000, "a.json")
    assert not rows
    assert "nesting too deep" in tally.rejects[0]["reason"]


def test_lone_surrogates_become_replacement_characters() -> None:
    rows, _ = rows_of(b'[{"name": "a\\ud800", "message": "b\\udfff"}]', "a.json")
    assert (rows[0]["speaker"], rows[0]["text"]) == ("a\ufffd", "b\ufffd")


def test_a_catastrophic_alias_pattern_ends_in_an_error_within_seconds() -> None:
    names = Names({"亚托莉": ["/(a|a|aa)+b/"]}, [])
    with within(5.0), pytest.raises(InputError, match="took over a second"):
        names["a" * 60]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"narrators": [1]}, "`extract.narrators`: expected a list of names, got [1]\nhint: quotes around a number"),
        ({"kag_end": "(p"}, "`extract.kag_end`: expected a regular expression, got missing )"),
        ({"recurrence": 0}, "`extract.recurrence`: expected 1 or more, got 0"),
        ({"aliases": {1: []}}, "`extract.aliases`: expected a list of names under 1, got []"),
        ({"aliases": {"夏生": "夏声"}}, "`extract.aliases`: expected a list of names under 夏生, got '夏声'"),
        (
            {"files": {"a.txt": {"aliases": ["夏生"]}}},
            "`extract.aliases`: expected names with lists under them, got ['夏生']",
        ),
    ],
)
def test_names_in_params_that_are_none_are_refused_with_their_key(change: dict, reason: str) -> None:
    with pytest.raises(InputError) as error:
        list(extract([Source("a.txt", "夏生：早。\n".encode)], replace(PARAMS, **change), Tally()))
    assert reason in str(error.value)


def test_no_text_of_swapped_columns_stands_in_the_report_as_a_name() -> None:
    said = [f"今天第{number}次走到海边时我终于把那句话说出口了" for number in range(5)]
    long = "Mr. Fitzwilliam Darcy"  # a name if it recurs
    names = [*said, *[long] * 3, "亚托莉"]
    _, tally = rows_of(("speaker,text\n" + "".join(f"{name},夏生\n" for name in names)).encode(), "a.csv")
    found = report(tally)
    assert [(row["name"], row["lines"]) for row in found["speakers"]] == [(long, 3), ("亚托莉", 1)]
    assert found["totals"]["unlisted_names"] == 5
    assert "海边" not in json.dumps(found, ensure_ascii=False)


# --- the folder


def test_what_is_no_script_is_listed_with_its_reason(tmp_path: Path) -> None:
    folder = tmp_path / "script"
    folder.mkdir()
    (tmp_path / "secret.txt").write_text("夏生：密码。\n")
    (folder / "out.txt").symlink_to(tmp_path / "secret.txt")
    (folder / "folder").symlink_to(tmp_path, target_is_directory=True)
    (folder / "gone.txt").symlink_to(folder / "nothing.txt")
    (folder / ".hidden.txt").write_text("夏生：早。\n")
    (folder / "empty.txt").touch()
    (folder / "face.PNG").write_bytes(b"\x89PNG")
    os.mkfifo(folder / "pipe.txt")
    (folder / "a.txt").write_text("夏生：早。\n")
    (folder / "b.txt").symlink_to(folder / "a.txt")
    tally = Tally()
    assert [source.name for source in find_sources(folder, tally)] == ["a.txt", "b.txt"]
    assert {entry["file"]: entry["reason"] for entry in tally.skipped} == {
        ".hidden.txt": "hidden",
        "empty.txt": "empty",
        "face.PNG": "image",
        "folder": "a link that leaves the source folder",
        "gone.txt": "not a plain file",
        "out.txt": "a link that leaves the source folder",
        "pipe.txt": "not a plain file",
    }


@pytest.mark.parametrize("name", ["第一章.txt", "立绘.png"])
def test_a_file_name_that_is_not_utf_8_is_refused_with_the_cure(tmp_path: Path, name: str) -> None:
    (tmp_path / os.fsdecode(name.encode("gbk"))).write_text("夏生：早。\n")
    with pytest.raises(InputError) as error:
        find_sources(tmp_path, Tally())
    assert f"({name} in GBK)\nhint: convmv -f gbk -t utf-8" in str(error.value)


def test_a_picture_named_as_text_ends_in_an_error_that_names_it() -> None:
    with pytest.raises(InputError, match=r"cg\.txt: expected "):
        rows_of(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(256)) * 20, "cg.txt")

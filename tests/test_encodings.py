"""encodings: each rule, the folder's vote, what is located, and what is refused."""

import codecs
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.encodings import Ballot, certain, decode, repair, vote
from stages.records import InputError

CHINESE = "夏生：今天的雾很大，船不会来了。\n亚托莉：那我就在这里等。\n她把灯点上，什么也没有说。\n" * 8
TRADITIONAL = "夏生：今天的霧很大，船不會來了。\n亞托莉：那我就在這裡等。\n她把燈點上，什麼也沒有說。\n" * 8
JAPANESE = "夏生「今日は霧が濃いから、船は来ないよ」\nアトリ「それなら、ここで待ちます」\n彼女は灯をともした。\n" * 8
KOREAN = "나츠오: 오늘은 안개가 짙어서 배가 오지 않을 거야.\n아트리: 그러면 여기에서 기다리겠습니다.\n" * 8
RUSSIAN = "Нацуки: Сегодня туман, корабль не придёт.\nАтри: Тогда я подожду здесь.\n" * 8
FRENCH = "Natsuki : Le bateau ne viendra pas, la brume est très épaisse.\nAtri : J’attendrai ici, voilà, à côté.\n" * 8


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (CHINESE, "gb18030"),
        (TRADITIONAL, "big5hkscs"),
        (JAPANESE, "cp932"),
        (JAPANESE, "euc_jp"),
        (KOREAN, "cp949"),
        (RUSSIAN, "cp1251"),
        (FRENCH, "cp1252"),
        (CHINESE, "utf-8"),
        (CHINESE, "utf-16-le"),
        (JAPANESE, "utf-16-be"),
    ],
)
def test_each_encoding_is_found_by_its_letters(text: str, encoding: str) -> None:
    assert decode("a.txt", text.encode(encoding)).encoding == encoding


@pytest.mark.parametrize(
    ("mark", "encoding"),
    [
        (codecs.BOM_UTF8, "utf-8"),
        (codecs.BOM_UTF16_LE, "utf-16-le"),
        (codecs.BOM_UTF16_BE, "utf-16-be"),
        (codecs.BOM_UTF32_LE, "utf-32-le"),
    ],
)
def test_a_byte_order_mark_decides_and_goes(mark: bytes, encoding: str) -> None:
    found = decode("a.txt", mark + CHINESE.encode(encoding))
    assert (found.encoding, found.why, found.text) == (encoding, "byte order mark", CHINESE)


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_line_ends_become_newlines(end: str) -> None:
    assert decode("a.txt", CHINESE.replace("\n", end).encode("gb18030")).text == CHINESE


def test_next_line_and_line_separator_are_no_line_ends() -> None:
    assert decode("a.txt", "早\u2028安\n好\u0085吗".encode()).text.count("\n") == 1


def test_a_short_file_follows_the_vote_of_its_folder() -> None:
    short = "夏生：嗯。".encode("gb18030")
    ballot = vote([CHINESE.encode("gb18030"), CHINESE[::-1].encode("gb18030"), short])
    found = decode("short.txt", short, ballot=ballot)
    assert (found.encoding, found.why) == ("gb18030", "vote of 3 files without a mark")


def test_a_long_file_of_another_encoding_does_not_follow() -> None:
    stairs = "アトリ「灯台の階段は百二十段です」\n夏生「数えたのか」\nアトリ「はい、毎朝のぼりますから」\n"
    waves = "夏生「ご苦労さま。明日はおれがのぼるよ」\n波の音が、いつもより遠くから聞こえてきた。\n"
    other = (JAPANESE + stairs + waves).encode("cp932")
    ballot = vote([CHINESE.encode("gb18030")] * 5 + [other])
    found = decode("other.txt", other, ballot=ballot)
    assert found.encoding == "cp932"
    assert "against gb18030 of the folder" in found.why


def test_commands_that_repeat_a_few_rare_words_follow_the_folder() -> None:
    slots = "".join(f"[存档 dd=*s{slot}]\n" for slot in range(60)).encode("gb18030")
    macros = "; 黑幕渐隐\n; 竖排\n; 震屏幅度\n; 淡蓝滤镜\n; 抖屏频率\n; 屏幕噪点\n; 镜头缩放\n; 雾霾图层\n" * 4
    ballot = vote([CHINESE.encode("gb18030"), slots, macros.encode("gb18030")])
    for data in (slots, macros.encode("gb18030")):
        assert decode("save.ks", data, ballot=ballot).encoding == "gb18030"
    with pytest.raises(InputError, match="cannot decode"):
        decode("noise.ks", bytes(range(128, 256)) * 8, ballot=ballot)


def test_a_lone_degree_sign_is_western() -> None:
    assert decode("a.fountain", "EXT. RUE 14° - NIGHT\n".encode("cp1252")).text == "EXT. RUE 14° - NIGHT\n"


def test_files_that_prove_themselves_have_no_vote() -> None:
    assert vote([CHINESE.encode(), CHINESE.encode("utf-16")]).files == 0


def test_a_forced_encoding_is_taken() -> None:
    found = decode("a.txt", "夏生：嗯。".encode("big5"), forced="big5")
    assert (found.text, found.why) == ("夏生：嗯。", "forced by params.yaml")


def test_a_forced_encoding_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InputError, match="expected an encoding that Python knows, got `gbk8`"):
        decode("a.txt", b"a", forced="gbk8")


def test_one_bad_byte_is_located_and_loses_nothing_else() -> None:
    data = CHINESE.encode("gb18030")
    third_line = data.index(b"\n", data.index(b"\n") + 1) + 1
    found = decode("a.txt", data[:third_line] + b"\xff" + data[third_line:])
    assert [(bad.offset, bad.line) for bad in found.bad_bytes] == [(third_line, 3)]
    assert found.text.replace("\ufffd", "") == CHINESE


def test_each_of_many_bad_bytes_stands_in_its_line_whatever_ends_the_lines() -> None:
    lines = [f"夏生：第{number}句。".encode() + b"\xff" * (number % 200 == 0) for number in range(1, 601)]
    for end in (b"\n", b"\r\n", b"\r"):
        found = decode("a.txt", end.join(lines))
        assert [bad.line for bad in found.bad_bytes] == [200, 400, 600]


def test_one_bad_byte_in_utf8_does_not_change_the_encoding() -> None:
    found = decode("a.txt", CHINESE.encode() + b"\xff\n")
    assert (found.encoding, len(found.bad_bytes)) == ("utf-8", 1)


def test_a_wrong_forced_encoding_fails_with_the_first_offset() -> None:
    with pytest.raises(
        InputError, match=r"a\.txt: expected text in utf-8, cannot decode the byte at offset 0 \(line 1\)"
    ):
        decode("a.txt", CHINESE.encode("gb18030"), forced="utf-8")


def test_a_wrong_forced_encoding_that_decodes_fails_the_check() -> None:
    with pytest.raises(InputError, match="0% of the letters that every text has"):
        decode("a.txt", JAPANESE.encode("cp932"), forced="gb18030")


NAMES_IN_KANA = "ﾅﾂｵ：おはよう。\nｱﾄﾘ：はい、夏生さん！\nﾅﾂｵ：霧が濃いな。\nｱﾄﾘ：船は来ませんね。\n" * 12


@pytest.mark.parametrize("forced", ["auto", "itself"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp932"])
def test_names_in_halfwidth_kana_are_good_text(encoding: str, forced: str) -> None:
    data = NAMES_IN_KANA.encode(encoding)
    assert decode("a.txt", data, forced=encoding if forced == "itself" else forced).text == NAMES_IN_KANA


def test_chinese_that_was_saved_as_halfwidth_kana_is_refused() -> None:
    data = "少人在等\n不怕\n".encode("gbk").decode("cp932").encode() * 20
    with pytest.raises(InputError, match=r"read as utf-8, 60 characters that text does not have, the first 'ﾉ' near"):
        decode("a.txt", data)


def test_a_binary_file_is_refused_where_it_begins_to_be_one() -> None:
    with pytest.raises(InputError, match=r"a\.txt: expected "):
        decode("a.txt", bytes(range(256)) * 40)


def test_mojibake_is_repaired_a_line_at_a_time() -> None:
    good, bad = "早……“好”！？～①ｱﾄﾘ", "今天有雾".encode().decode("latin-1")
    text, repaired = repair(f"{good}\n{bad}\n{good}")
    assert (text, repaired) == (f"{good}\n今天有雾\n{good}", 1)


@pytest.mark.parametrize("text", ["早……“好”！？～①ｱﾄﾘ", "café déjà vu", "a · b × c", "Ça va ?", "“ ’ ” — …"])
def test_good_text_is_left_alone(text: str) -> None:
    assert repair(text) == (text, 0)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes_end_in_text_or_in_one_clear_error(data: bytes) -> None:
    try:
        found = decode("a.txt", data, ballot=Ballot())
    except InputError as error:
        assert str(error).startswith("a.txt: expected ")
    else:
        found.text.encode()
        assert "\r" not in found.text


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Co"]), min_size=1))
def test_utf8_is_never_taken_for_anything_else(text: str) -> None:
    assert certain(text.encode()) in (("utf-8", "UTF-8 sequences"), ("utf-8", "byte order mark"))


CASES = Path(__file__).parent.parent.parent / "shared/cases"


@pytest.mark.skipif(not CASES.is_dir(), reason="no folder of real scripts beside the repository")
def test_the_real_bad_byte_and_the_real_mojibake() -> None:
    bad = decode("script.rpy", (CASES / "enc_gbk_one_bad_byte/raw/script.rpy").read_bytes())
    assert [place.offset for place in bad.bad_bytes] == [6035]
    whole = decode("script.rpy", (CASES / "renpy_question_schinese/raw/script.rpy").read_bytes())
    broken = decode("script.rpy", (CASES / "enc_mojibake_utf8_as_latin1/raw/script.rpy").read_bytes())
    assert broken.text == whole.text

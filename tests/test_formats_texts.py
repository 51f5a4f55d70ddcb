"""The formats without an engine, on what scripts of theirs hold beside the plain case (tests/cases/extract)."""

import pytest

from stages.formats import FORMATS, Message, Options, Reject

OPTIONS = Options({}, "", "", frozenset())


def read(name: str, text: str) -> list[Message | Reject]:
    return list(FORMATS[name].read(text, OPTIONS))


def said(name: str, text: str) -> list[tuple[str | None, str]]:
    return [(item.speaker, item.text) for item in read(name, text) if isinstance(item, Message)]


def srt(*events: str) -> str:
    return "\n".join(f"{n}\n00:00:{n:02},000 --> 00:00:{n:02},900\n{event}\n" for n, event in enumerate(events, 1))


# --- subtitles


@pytest.mark.parametrize("marks", ["[]", "()", "（）", "【】"])
def test_a_subtitle_names_its_speaker_in_brackets_and_a_sound_is_none(marks: str) -> None:
    left, right = marks
    events = (f"{left}Mai{right} One.", f"{left}sighs{right}", f"{left}Kou{right}\nTwo.", f"{left}Kou{right} Three.")
    expected = [("Mai", "One."), (None, f"{left}sighs{right}"), ("Kou", "Two."), ("Kou", "Three.")]
    assert said("subtitles", srt(*events, f"{left}Mai{right} Four.", f"{left}sighs{right} No."))[:4] == expected
    assert said("subtitles", srt("（枪声）\n快跑！", "（舞）一", "（空）二"))[0] == (None, "（枪声）快跑！")


def test_two_people_in_one_subtitle_are_two_messages() -> None:
    assert said("subtitles", srt("- One.\n- Two.", "——三。")) == [(None, "One."), (None, "Two."), (None, "——三。")]
    assert said("subtitles", srt("-舞：一\n-空：二", "舞：三\n四", "空：五"))[:3] == [
        ("舞", "一"),
        ("空", "二"),
        ("舞", "三\n四"),
    ]


def test_a_label_that_few_subtitles_have_is_a_sign_on_the_screen() -> None:
    assert {name for name, _ in said("subtitles", srt(*["One."] * 45, "Subject: two", "Subject: three"))} == {None}


def test_names_of_the_events_leave_other_events_their_labels() -> None:
    head = (
        "[Script Info]\n\n[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"
    )
    event = "Dialogue: 0,0:00:01.00,0:00:02.00,Default,{},0,0,0,,{}\n"
    text = head + event.format("Mai", "One: two") + event.format("", "Kou: three") + event.format("", "Kou: four")
    assert said("subtitles", text) == [("Mai", "One: two"), ("Kou", "three"), ("Kou", "four")]


# --- fountain


def test_a_cue_in_letters_without_case_is_short_and_no_sentence() -> None:
    text = "INT. 海边 - 夜\n\n海很安静，灯灭了。\n没有人来。\n\n舞\n来了。\n\n@Mai\nOne.\n\nMAI (O.S.)\nTwo.\n"
    speech = [(item.speaker, item.text) for item in read("fountain", text) if item.kind == "speech"]
    assert speech == [("舞", "来了。"), ("Mai", "One."), ("MAI", "Two.")]


# --- json, csv


def test_json_takes_the_keys_that_script_tools_and_chat_exports_write() -> None:
    text = '[{"name": "舞", "text": ["一", "二"]}, {"speaker": "空", "msg": "三"}, {"names": ["舞", "空"], "message": "四"},'
    text += (
        '{"author": {"name": "舞"}, "content": "五"}, {"talker": "空", "mes": "六"}, {"name": null, "message": "七"}]'
    )
    names = [("舞", "一\n二"), ("空", "三"), ("舞·空", "四"), ("舞", "五"), ("空", "六"), (None, "七")]
    assert said("json", text) == names


def test_a_table_without_header_finds_the_speaker_and_the_text() -> None:
    assert said("csv", '1,舞,一二三,a1\n2,空,"四,五",a2\n3,,六七八,\n') == [
        ("舞", "一二三"),
        ("空", "四,五"),
        (None, "六七八"),
    ]
    assert said("csv", "舞,一二\n,三四\n") == [("舞", "一二"), (None, "三四")]


def test_a_table_takes_the_last_revision_of_a_translation() -> None:
    text = "Character,Original,Translated,Edited\n舞,一,one,\n,二,two,two!\n"
    assert said("csv", text) == [("舞", "one"), (None, "two!")]

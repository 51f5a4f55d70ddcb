"""The formats without an engine, on what scripts of theirs hold beside the plain case (tests/cases/extract)."""

import pytest

from stages.formats import FORMATS, Message, Options, Reject
from stages.formats.attributions import is_bare

OPTIONS = Options({}, "", "", frozenset())


def read(name: str, text: str) -> list[Message | Reject]:
    return list(FORMATS[name].read(text, OPTIONS))


def said(name: str, text: str) -> list[tuple[str | None, str]]:
    return [(item.speaker, item.text) for item in read(name, text) if isinstance(item, Message)]


def srt(*events: str) -> str:
    return "\n".join(f"{n}\n00:00:{n:02},000 --> 00:00:{n:02},900\n{event}\n" for n, event in enumerate(events, 1))


ASS = "[Script Info]\n\n[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\n"


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


def test_a_subtitle_that_calls_a_name_is_nobodys() -> None:
    assert said("subtitles", srt("Mai: One.", "Kou: Two.", "Mai: Three.", "Kou: Four.", "Mai!"))[4:] == [(None, "Mai!")]


@pytest.mark.parametrize("tag", ["<i>", "{"])
@pytest.mark.parametrize(
    "head", ["1\n00:00:01,000 --> 00:00:02,000\n", "[Events]\nDialogue: 0,0:00:01.00,0:00:02.00,Default,,0,0,0,,"]
)
def test_subtitles_with_more_tags_than_anybody_sets_are_rejected(head: str, tag: str) -> None:
    (item,) = FORMATS["subtitles"].read(head + tag * 20_000, Options({}, "", "", frozenset()))
    assert isinstance(item, Reject) and item.reason == "expected at most 1000 tags in a subtitle, got 20000"


def test_names_of_the_events_leave_other_events_their_labels() -> None:
    event = "Dialogue: 0,0:00:01.00,0:00:02.00,Default,{},0,0,0,,{}\n"
    text = ASS + event.format("Mai", "One: two") + event.format("", "Kou: three") + event.format("", "Kou: four")
    assert said("subtitles", text) == [("Mai", "One: two"), ("Kou", "three"), ("Kou", "four")]


def test_events_are_read_in_the_order_of_their_time() -> None:
    event = "Dialogue: 0,0:00:0{}.00,0:00:09.00,Default,Mai,0,0,0,,{}\n"
    items = read("subtitles", ASS + event.format(5, "Three.") + event.format(1, "One.") + event.format(1, "Two."))
    assert [(item.line, item.text) for item in items] == [(6, "One."), (7, "Two."), (5, "Three.")]


def test_of_subtitles_in_two_languages_the_upper_one_is_read_and_the_other_is_said_to_be_left_out() -> None:
    events = (
        "舞：走吧。\n行こう、今すぐに。",
        "空：等等！\nちょっと待って！",
        "舞：为什么？\nどうしてなの？",
        "空：灯灭了。",
    )
    items = read("subtitles", srt(*events))
    assert [(item.speaker, item.text) for item in items if isinstance(item, Message)] == [
        ("舞", "走吧。"),
        ("空", "等等！"),
        ("舞", "为什么？"),
        ("空", "灯灭了。"),
    ]
    rejects = [item for item in items if isinstance(item, Reject)]
    assert [item.text for item in rejects] == ["行こう、今すぐに。", "ちょっと待って！", "どうしてなの？"]
    assert {item.reason.split(":")[0] for item in rejects} == {"a second language"}


def test_few_subtitles_in_two_languages_keep_both() -> None:
    assert said("subtitles", srt("走吧。\n行こうよ。", "等等！", "为什么？", "灯灭了。"))[0] == (
        None,
        "走吧。\n行こうよ。",
    )


def test_a_manner_beside_a_name_in_subtitles_stays_with_the_words() -> None:
    assert said("subtitles", srt("舞（小声）：一。", "舞：二。", "空：三。", "空：四。"))[0] == ("舞", "（小声）一。")


def test_a_subtitle_goes_on_a_sentence_that_was_not_over() -> None:
    events = (
        "舞：一。",
        "空：二，",
        "二二",
        "二三。",
        "灯灭了。",
        "舞：三",
        "（敲门声）",
        "空：四。",
        "空：五",
        "-五五",
        *["舞：六。"] * 2,
    )
    assert [name for name, _ in said("subtitles", srt(*events))] == [
        *("舞", "空", "空", "空", None, "舞", None, "空", "空", None, "舞", "舞")
    ]


def test_where_no_sentence_is_ended_a_subtitle_without_a_name_is_nobodys() -> None:
    assert said("subtitles", srt("舞：一", "空：二", "灯灭了", "舞：三"))[2] == (None, "灯灭了")


# --- fountain


def test_a_cue_in_letters_without_case_is_short_and_no_sentence() -> None:
    text = "INT. 海边 - 夜\n\n海很安静，灯灭了。\n没有人来。\n\n舞\n来了。\n\n@Mai\nOne.\n\nMAI (O.S.)\nTwo.\n"
    speech = [(item.speaker, item.text) for item in read("fountain", text) if item.kind == "speech"]
    assert speech == [("舞", "来了。"), ("Mai", "One."), ("MAI", "Two.")]


# --- json, csv


def test_json_takes_the_keys_that_script_tools_and_chat_exports_write() -> None:
    text = '[{"name": "舞", "text": ["一", "二"]}, {"speaker": "空", "msg": "三"},'
    text += '{"names": ["舞", "空"], "message": "四"},'
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


def test_a_header_that_calls_no_column_the_text_is_no_message_and_the_wordiest_is_read() -> None:
    text = "ID,Speaker,English,Chinese\n1,Mai,Good morning.,早。\n2,Kou,Who is there?,谁？\n"
    assert said("csv", text) == [("Mai", "Good morning."), ("Kou", "Who is there?")]
    assert said("csv", "English,Speaker\nOne two.,Mai\n") == [("Mai", "One two.")]


def test_a_speaker_whose_name_is_the_word_of_a_header_speaks() -> None:
    assert said("csv", "1,Who,One.\n2,Mai,Two.\n3,Who,Three.\n")[0] == ("Who", "One.")


def test_a_table_takes_the_last_revision_of_a_translation() -> None:
    text = "Character,Original,Translated,Edited\n舞,一,one,\n,二,two,two!\n"
    assert said("csv", text) == [("舞", "one"), (None, "two!")]


def kinds(name: str, text: str) -> list[tuple[str, str | None, str]]:
    return [(item.kind, item.speaker, item.text) for item in read(name, text) if isinstance(item, Message)]


def reasons(name: str, text: str) -> list[str]:
    return [item.reason for item in read(name, text) if isinstance(item, Reject)]


def test_what_a_json_record_offers_is_choices() -> None:
    text = '[{"speaker": "舞", "text": "一", "choices": [{"text": "走", "next": "a"}, {"label": "留"}]},\n'
    text += '{"options": ["哭", "笑"]}, {"options": {"volume": "loud"}, "list": [{"text": "二", "choices": []}]}]'
    assert kinds("json", text) == [
        ("speech", "舞", "一"),
        *(("choice", None, words) for words in ("走", "留", "哭", "笑")),
        ("narration", None, "二"),
    ]
    assert read("json", text)[-1].line == 2


def test_a_key_of_json_may_be_written_in_any_case_and_an_unknown_one_is_told() -> None:
    assert said(
        "json", '[{"speakerName": "舞", "dialogueText": "一"}, {"speaker_name": "空", "Dialogue_Text": "二"}]'
    ) == [
        ("舞", "一"),
        ("空", "二"),
    ]
    (reason,) = reasons("json", '[{"foo": "舞", "bar": 1}]')
    assert "such as message, text" in reason
    assert reason.endswith("got foo, bar")


def test_a_json_list_of_pairs_is_names_and_messages() -> None:
    pairs = '["舞", "一"],\n ["空", "二"], ["舞", "三"], ["", "四"], ["空", "五"], ["舞", "六"]'
    assert said("json", f'{{"a": [\n{pairs}]}}')[:4] == [("舞", "一"), ("空", "二"), ("舞", "三"), (None, "四")]
    assert [item.line for item in read("json", f"[\n{pairs}]")] == [2, *[3] * 5]
    assert {name for name, _ in said("json", '[["一", "二"], ["三", "四"], ["五", "六"]]')} == {None}  # no name recurs


@pytest.mark.parametrize(
    "header",
    [
        *("说话者,对话内容", "发言人,内容", "角色名称,台词内容", "キャラクター名,台詞", "Speaker Name,Dialogue Text"),
        *("sep=,\n角色,台词", "灯塔剧本,\n角色,台词", "角色,台词（中文）"),
    ],
)
def test_a_header_is_known_by_its_words_and_may_stand_below_a_title(header: str) -> None:
    assert said("csv", f"{header}\n舞,一\n空,二\n") == [("舞", "一"), ("空", "二")]


def test_a_row_above_the_header_is_told() -> None:
    assert reasons("csv", "灯塔剧本,\n角色,台词\n舞,一\n") == ["a row above the header of the table"]
    assert reasons("csv", "sep=,\n角色,台词\n舞,一\n") == []


@pytest.mark.parametrize("header", ["角色,台词（中文）,台词（英文）", "Character,Chinese,English"])
def test_of_two_columns_that_say_as_much_the_chinese_one_is_read_and_told(header: str) -> None:
    text = f"{header}\n舞,今天的海很安静。,The sea is very calm today indeed.\n空,灯灭了。,The light has gone out.\n"
    assert said("csv", text) == [("舞", "今天的海很安静。"), ("空", "灯灭了。")]
    (reason,) = reasons("csv", text)
    assert f"`{header.split(',')[1]}` is read" in reason


def test_empty_names_where_names_stand_at_changes_only_are_told() -> None:
    table = "角色,台词\n舞,一\n,二\n空,三\n,四\n,四\n"
    assert [name for name, _ in said("csv", table)] == ["舞", None, "空", None, None]
    assert [reason.partition(" under")[0] for reason in reasons("csv", table)] == ["3 rows have no name"]
    assert reasons("csv", "角色,台词\n舞,一\n,二\n") == []  # a slip, or narration
    assert reasons("csv", table + "空,五\n空,六\n") == []  # a name stands twice in a row: empty cells are narration


# --- text

DIALOGUE = [("夏生", "早。"), ("舞", "早啊。"), ("夏生", "走吧。"), ("舞", "好。")]
ADORNED = {
    "stamp": "[00:1{n}] {name}：{text}\n",
    "span": "00:00:1{n},000 --> 00:00:1{n},900 {name}：{text}\n",
    "day": "2020-01-01 12:00:0{n} {name}：{text}\n",
    "messenger": "1/1/20, 12:0{n} - {name}: {text}\n",
    "header": "{name} 2020/1/1 12:00:0{n}\n{text}\n\n",
    "header with account": "2020-01-01 12:00:0{n} {name}(10001)\n{text}\n\n",
    "log": "<{name}> {text}\n",
    "bold": "**{name}**：{text}\n\n",
    "bold colon": "**{name}：** {text}\n\n",
    "list": "- {name}：{text}\n",
    "numbers": "{n}. {name}：{text}\n",
    "play": "{name}　　{text}\n\n",
    "half-width marks": "{name}｢{text}｣\n",
    "half-width marks below": "{name}\n｢{text}｣\n\n",
}


@pytest.mark.parametrize("form", ADORNED)
def test_what_stands_around_a_name_comes_off(form: str) -> None:
    lines = [ADORNED[form].format(n=n, name=name, text=text) for n, (name, text) in enumerate(DIALOGUE, 1)]
    assert said("text", "".join(lines)) == DIALOGUE


def test_brackets_on_some_lines_and_colons_on_others_name_the_same_people() -> None:
    text = "【夏生】早。\n舞：早啊。\n海很安静。\n夏生：走吧。\n【舞】好。\n【旁白】灯灭了。\n"
    assert [name for name, _ in said("text", text)] == ["夏生", "舞", None, "夏生", "舞", None]


def test_a_play_may_part_the_name_by_spaces_or_a_full_stop() -> None:
    assert said("text", "舞　（走近）一。\n夏生　二。\n舞 （笑）三。\n夏生　四。\n")[:2] == [
        ("舞", "（走近）一。"),
        ("夏生", "二。"),
    ]
    play = "ACT I\n\nMAI.\nOne. Two\nthree.\n\n[Enter Kou.]\n\nMR. KOU.\n[Sighs.] Four.\n\n"
    play += "MAI.\nYes.\n\nMR. KOU.\nNo.\n\nMAI. Five\nsix.\n"
    expected = [("MAI", "One. Two\nthree."), (None, "[Enter Kou.]"), ("MR. KOU", "[Sighs.] Four."), ("MAI", "Yes.")]
    assert said("text", play) == [*expected, ("MR. KOU", "No."), ("MAI", "Five\nsix.")]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("舞『三。』\n", [("舞", "三。")]),
        ("舞「三。\n　四。」\n", [("舞", "三。\n四。")]),
        ("舞“三。”\n", [("舞", "三。")]),
    ],
)
def test_a_known_name_before_any_quotation_speaks(line: str, expected: list[tuple[str, str]]) -> None:
    text = "夏生「一。」\n舞「二。」\n" * 2
    assert said("text", text + line + "夏生「五。」\n")[4:] == [*expected, ("夏生", "五。")]


@pytest.mark.parametrize(("colon", "her"), [("：", "舞！"), (":", "舞！"), ("\t", "舞")])
def test_a_name_without_the_mark_of_its_form_gives_nobody_the_word(colon: str, her: str) -> None:
    text = "".join(f"{name}{colon}{words}\n" for name, words in DIALOGUE)
    (shout,) = read("text", f"{text}夏生{colon}\n{her}\n")[4:]
    assert (shout.speaker, shout.text) == ("夏生", her)
    assert said("text", f"{text}夏生{colon}走吧。    {her}\n")[4:] == [("夏生", f"走吧。    {her}")]


def test_a_quotation_runs_on_past_a_line_that_calls_a_name() -> None:
    text = "".join(f"{name}：{words}\n" for name, words in DIALOGUE)
    assert said("text", f"{text}夏生：「走。\n舞！\n走！」\n")[4:] == [("夏生", "走。\n舞！\n走！")]


@pytest.mark.parametrize("marks", ["【】", "[]", "［］", "［】"])
def test_a_name_in_brackets_of_any_width_speaks(marks: str) -> None:
    text = "".join(f"{marks[0]}{name}{marks[1]}{words}\n" for name, words in DIALOGUE)
    assert said("text", text) == DIALOGUE


@pytest.mark.parametrize("mark", ["────", "━━━", "———", "— — —", "＊＊＊"])
def test_a_line_drawn_across_cuts_a_scene_and_is_no_message(mark: str) -> None:
    items = read("text", f"舞：一。\n空：二。\n{mark}\n舞：三。\n——\n空：四。\n")
    scenes = [("一。", "1"), ("二。", "1"), ("三。", "2"), ("——", "2"), ("四。", "2")]
    assert [(item.text, item.scene) for item in items if isinstance(item, Message)] == scenes


def test_sentences_and_columns_are_no_names() -> None:
    text = "No. I will not.\nYes. I will.\nThe sea was calm.\nHe slept.\nNo. Never.\nYes. Ever.\nShe left.\n"
    assert {name for name, _ in said("text", text)} == {None}
    assert said("text", "Mai.  One.\n\nKou.  Two.\n\nMai.  Three.\n\nKou.  No.\n")[1] == ("Kou", "Two.")


# --- prose

NAMES = "小舞道：“一。”\n阿空道：“二。”\n小舞笑道：“三。”\n阿空问道：“四？”\n"


@pytest.mark.parametrize(
    ("line", "who"),
    [
        ('小舞说道：“五。"', "小舞"),  # a scan's straight mark
        ("阿空来了．小舞笑道：“五。”", "小舞"),  # and its full stop
        ("小舞看了半日，又笑道：“五。”", "小舞"),
        ("小舞见了阿空，便问道：“五。”", "小舞"),
        ("只听阿空叫道：“五。”", "阿空"),
        ("小舞的母亲听了，忙说道：“五。”", None),
        ("小舞正要走，那仙姑笑道：“五。”", None),
        ("小舞听了，叹惜道：“五。”", "小舞"),
    ],
)
def test_the_subject_of_the_clause_speaks(line: str, who: str | None) -> None:
    assert [name for name, text in said("prose", NAMES + line + "\n灯灭了。\n") if text == "五。"] == [who]


def test_words_of_speaking_are_no_names() -> None:
    text = "".join(
        f"{word}道：“一。”\n" for word in ("吩咐", "点头", "笑嘻嘻的", "一面", "四人", "大叫", "半日") for _ in "ab"
    )
    assert {name for name, _ in said("prose", NAMES + text)} == {"小舞", "阿空", None}


def test_a_novel_may_quote_in_single_marks() -> None:
    text = "'I don't know,' said Mai. 'Do you?'\n\n'Not I,' said Kou.\n\n'A lamp,' said Mai.\n\n'Isn't it?' said Kou.\n"
    assert said("prose", text)[:3] == [("Mai", "I don't know,"), ("Mai", "Do you?"), ("Kou", "Not I,")]


NAMES_EN = '"One," said Mai.\n\n"Two," said Kou.\n\n"Three," said Mai.\n\n"Four," said Kou.\n\n'


@pytest.mark.parametrize(
    ("line", "who"),
    [
        ('"Five?" asked the captain.', None),
        ('"Five!" cried his old mother.', None),
        ('"Five." The old man sighed.', None),
        ('"Five!" cried Mrs. Sea.', None),  # named once
        ('"Five!" Minamo shouted.', None),
        ('Minamo said: "Five."', None),
        ('"Five." She laughed.', "Mai"),
        ('"Five," replied Kou--', "Kou"),
        ('"Five," said the little Kou.', "Kou"),
    ],
)
def test_what_is_said_by_somebody_else_is_given_to_no_known_speaker(line: str, who: str | None) -> None:
    assert [name for name, text in said("prose", NAMES_EN + line) if text.strip(",.!?") == "Five"] == [who]


@pytest.mark.parametrize("after", ["说着，笑了。", "說著，笑了。", "说了一句。"])
def test_the_verb_of_saying_may_go_on(after: str) -> None:
    assert [name for name, text in said("prose", f"{NAMES}「五。」阿空{after}\n") if text == "五。"] == ["阿空"]


LEADS = "".join(f"“早上好{n}。”沈砚说。\n“你好{n}。”陆舟说。\n" for n in "一二三") + "雪还在下。\n"


def whose(line: str) -> set[str | None]:
    return {name for name, text in said("prose", f"{LEADS}{line}\n雪停了。\n") if text == "甲。"}


@pytest.mark.parametrize(
    "line",
    [
        "“甲。”沈砚压低声音，凑到陆舟耳边说。",
        "“甲。”沈砚走过来，坐在陆舟旁边说。",
        "“甲。”沈砚放下笔，朝陆舟笑着说。",
        "“甲。”沈砚站起来，往陆舟那边走了一步，说。",
        "沈砚回过头，冲陆舟喊道：“甲。”",
        "沈砚走过去，扶起陆舟道：“甲。”",
        "沈砚忍不住，打断陆舟说：“甲。”",
        "沈砚停下来，等陆舟走近才说：“甲。”",
        "沈砚放下笔，凑近陆舟说：“甲。”",
        "沈砚瞪了一眼，一路叮咛陆舟：“甲。”",  # an earlier clause opens with her, this one with no name
        "陆舟愣了愣，现在沈砚说：“甲。”",
        "陆舟正要走，只见沈砚赶来对陆舟说：“甲。”",
        "陆舟吓了一跳，小沈砚跑到门外喊：“甲。”",
        "陆舟站着，旁边沈砚笑道：“甲。”",
        "沈砚等了很久，于是开玩笑说：“甲。”",
    ],
)
def test_whom_it_is_said_to_is_not_who_says_it(line: str) -> None:
    assert whose(line) == {"沈砚"}


@pytest.mark.parametrize(
    "line",
    ["掌柜的朝沈砚喊道：“甲。”", "船长走到沈砚面前说：“甲。”", "“甲。”邮差冲沈砚喊道。", "老人看看沈砚，说：“甲。”"],
)
def test_what_a_stranger_says_to_somebody_known_is_nobodys(line: str) -> None:
    assert whose(line) == {None}


@pytest.mark.parametrize(
    ("line", "who"),
    [
        ("“甲。”沈砚问他。", "沈砚"),
        ("“甲。”陆舟问沈砚。", "陆舟"),
        ("“甲。”沈砚回答他。", "沈砚"),
        ("“甲。”沈砚告诉陆舟。", "沈砚"),
        ("“甲。”沈砚小声嘀咕。", "沈砚"),
        ("“甲。”沈砚喃喃自语。", "沈砚"),
        ("“甲。”沈砚没好气地回了一句。", "沈砚"),
        ("“甲。”陆舟点了点头。", "陆舟"),
        ("陆舟愣了一下。“甲。”", "陆舟"),
        ("陆舟看着沈砚。“甲。”", None),  # two names: it could be either's
        ("陆舟和他愣了一下。“甲。”", None),
        ("陆舟太太愣了一下。“甲。”", None),
    ],
)
def test_a_plain_attribution_or_what_one_does_beside_the_words_names_the_speaker(line: str, who: str | None) -> None:
    assert whose(f"门开了。\n{line}") == {who}


@pytest.mark.parametrize("manner", ["轻轻地说道", "轻轻说道", "激动地说", "大喜道", "解释道"])
def test_the_manner_of_saying_is_no_part_of_a_name(manner: str) -> None:
    assert {name for name, _ in said("prose", LEADS + f"“甲。”沈砚{manner}。\n" * 3)} == {"沈砚", "陆舟", None}


@pytest.mark.parametrize("manner", ["忙", "笑着", "大哭着"])
def test_a_run_of_manners_is_read_in_one_way_only(manner: str) -> None:
    assert not is_bare(manner * 100)  # would not end if each could be read in two ways
    assert is_bare(f"夏生{manner}说道：")


def test_a_paragraph_that_ends_in_a_colon_announces_the_speech_below() -> None:
    assert said("prose", f"{LEADS}沈砚想了想，说：\n“甲。”陆舟点点头。\n")[-2:] == [
        ("沈砚", "甲。"),
        (None, "陆舟点点头。"),
    ]


@pytest.mark.parametrize(
    ("line", "who"),
    [
        ('Kou sighed. "Five."', "Kou"),
        ('Tom sighed. "Five."\n\nTom sighed. "Six."', "Tom"),
        ('"Five." Kou only shook his head.', None),  # how another takes it
        ('Kou was fixed in wonder. "Five," she added.', None),
    ],
)
def test_in_english_one_speaks_after_what_one_does(line: str, who: str | None) -> None:
    text = f"{NAMES_EN}The lamp went out.\n\n{line}\n"
    assert {name for name, text in said("prose", text) if text.strip(",.") == "Five"} == {who}


@pytest.mark.parametrize(("indent", "end"), [("　　", ""), ("", "。")])
def test_a_novel_of_a_line_a_paragraph_is_not_taken_for_wrapped(indent: str, end: str) -> None:
    lines = [f"“{n}号的灯灭了，走路要看脚下的台阶。”沈砚说{end}\n“那就早一点回去。”\n" for n in range(9)]
    text = "".join(lines) + f"“我数过了，一共十二步，不会走错。”陆舟说{end}\n" * 2
    names = [name for name, _ in said("prose", text.replace("“", indent + "“"))]
    assert names[-4:] == ["沈砚", None, "陆舟", "陆舟"]


def test_an_indent_opens_a_paragraph_of_a_wrapped_novel() -> None:
    text = "　　沈砚说：“这里很冷，我们回去\n吧，明天再来看一看海，好不\n好？”\n" * 2
    text += "　　“我还想在这里再坐一会儿，\n你先回去吧，路上小心一点，\n好吗？”\n"
    assert [(item.line, item.speaker) for item in read("prose", text)] == [(1, "沈砚"), (4, "沈砚"), (7, None)]


def test_a_rule_across_a_novel_is_a_scene_break() -> None:
    items = read("prose", f"第一回　灯\n{LEADS}＊＊＊\n“甲。”沈砚说。\n第二回　海\n“乙。”沈砚说。\n")
    scenes = {item.text: item.scene for item in items if isinstance(item, Message)}
    assert [scenes[text] for text in ("你好三。", "甲。", "乙。")] == ["第一回　灯", "第一回　灯 (2)", "第二回　海"]


# --- formats without a mark of who speaks

TALK = "夏生：早。{0}\n舞（小声）：早啊。{0}\n海很安静。\n夏生：走吧。{0}\n舞：好。\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "ink",
            "=== start ===\n" + TALK.format(" # happy") + "{lit: 舞：嗯。|舞：哦。}\n" * 2 + "* 舞：去哪？\n-> END\n",
        ),
        ("twee", ":: Start\n" + TALK.format("<<set $a to 1>>") + "[[舞：去哪？]]\n"),
    ],
)
def test_a_name_before_a_colon_speaks_in_a_format_that_has_none_and_a_choice_stays_one(name: str, text: str) -> None:
    speech = [("夏生", "早。"), ("舞", "（小声）早啊。"), (None, "海很安静。"), ("夏生", "走吧。"), ("舞", "好。")]
    assert said(name, text)[: len(speech)] == speech
    assert {speaker for speaker, _ in said(name, text)} == {"夏生", "舞", None}  # {lit: 舞 is a condition
    assert kinds(name, text)[-1] == ("choice", None, "舞：去哪？")


def test_a_colon_in_few_lines_of_ink_names_nobody() -> None:
    text = "=== start ===\n" + "The sea was calm.\n" * 30 + "The sign: closed.\nThe sign: open.\n-> END\n"
    assert {name for name, _ in said("ink", text)} == {None}

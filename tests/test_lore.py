"""Lore pages become questions and answers in her own person, and nothing of the exam comes in with them."""

from dataclasses import replace
from pathlib import Path

import pytest

from stages.format import FormatParams, check, read_probes, with_lore
from stages.lore import Answers, Fact, Passage, as_markdown, ask, bare, hold_out, lore_dialogues, read_lore, repeats
from stages.messages import Card, to_messages
from stages.records import Dialogue, InputError, Piece, Turn

SAMPLE = Path(__file__).parent.parent / "raw" / "sample"
NAMES = ("亚托莉", "夏生")
NOTHING_HELD = hold_out([], [])
CARD = Card("亚托莉", "夏生", "夏生", "你是亚托莉。对方叫{user}。", "opening")
PARAMS = FormatParams("raw/sample", "opening", "keep", ["小满"], "on", 0.2, 1)

WIKI = """{{角色
|姓名=亚托莉
|外表年龄=十四五岁
|称呼夏生=夏生先生
}}
'''亚托莉'''是《日暮修理店》的女主角，[[汐见镇]]的机器人少女。她在[[灯崎]]的木箱里被[[夏生]]找到。<ref>第一话</ref>

== 喜好 ==
; 零食 : [[蟹味薯片|薯片]]

== 相关人物 ==
* [[真帆]]：浪花食堂的店主

{| class="wikitable"
| 春 || 约40枚
|}
[[分类:机器人]]
"""

MARKDOWN = """# 汐见镇

汐见镇是一座海边小镇。她不喜欢下雨。

## 基本情况

- 渡轮：星期二和星期五

### 浪花食堂

真帆在打理浪花食堂。

- 店主：真帆
- 夏天的店员：亚托莉
"""


def page(tmp_path: Path, name: str, text: str) -> list:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return [item._replace(source="") for item in read_lore(tmp_path)]


def test_a_wiki_page_is_read_as_infobox_facts_definitions_lists_and_prose(tmp_path):
    assert page(tmp_path, "a.wiki", WIKI) == [
        Fact("", "亚托莉", "姓名", "亚托莉"),
        Fact("", "亚托莉", "外表年龄", "十四五岁"),
        Fact("", "亚托莉", "称呼夏生", "夏生先生"),
        Passage("", "亚托莉", "", "亚托莉是《日暮修理店》的女主角，汐见镇的机器人少女。她在灯崎的木箱里被夏生找到。"),
        Fact("", "亚托莉", "零食", "薯片"),
        Fact("", "", "真帆", "浪花食堂的店主"),
    ]


def test_a_markdown_page_names_its_subject_in_third_headings(tmp_path):
    assert page(tmp_path, "a.md", MARKDOWN) == [
        Passage("", "", "汐见镇", "汐见镇是一座海边小镇。她不喜欢下雨。"),
        Fact("", "", "渡轮", "星期二和星期五"),
        Fact("", "浪花食堂", "店主", "真帆"),
        Fact("", "浪花食堂", "夏天的店员", "亚托莉"),
        Passage("", "浪花食堂", "", "真帆在打理浪花食堂。"),
    ]


@pytest.mark.parametrize("line", ["=" * 20_000 + " a", ";" + " " * 20_000 + "a"])
def test_a_long_line_that_is_no_heading_and_no_definition_is_soon_known_for_none(line):
    (text,) = as_markdown(line)  # what grows with the cube would not end
    assert text.endswith("a") and not text.startswith(("#", "; "))


def test_a_heading_in_wiki_markup_has_its_level_from_the_left():
    lines = "== 喜好 ==", "===船长=== ", "=a=b=", "; 年龄 : 15"
    assert list(as_markdown("\n".join(lines))) == ["## 喜好", "### 船长", "# a=b", "; 年龄：15"]


def test_a_field_without_a_value_is_no_fact_and_no_prose(tmp_path):
    wiki = WIKI.replace("|称呼夏生=", "|身高 = \n|体重=<!-- ? -->\n|称呼夏生=").replace("; 零食", "; 尺寸 : \n; 零食")
    assert page(tmp_path, "a.wiki", wiki) == page(tmp_path, "a.wiki", WIKI)


def test_a_list_item_without_a_value_is_no_fact(tmp_path):
    empty = MARKDOWN.replace("- 店主", "- 店龄： \n- 店主")
    assert page(tmp_path, "a.md", empty) == page(tmp_path, "a.md", MARKDOWN)


def test_hand_written_answers_come_first_and_as_they_are(tmp_path):
    (tmp_path / "z.yaml").write_text("- ask: [你好吗？, 还好吗？]\n  answer: 好！\n", encoding="utf-8")
    (tmp_path / "a.md").write_text(MARKDOWN, encoding="utf-8")
    assert next(read_lore(tmp_path)) == Answers("z.yaml#1", ["你好吗？", "还好吗？"], ["好！"])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("a.yaml", "- ask: 你好吗？\n  answer: 好！\n", "expected `ask` \\(a list\\) and `answer`"),
        ("a.yaml", "- ask: [几岁？]\n  answer: 15\n", "entry 1: expected texts, got .*\nhint: quotes around a number"),
        ("a.yaml", "ask: [你好吗？]\nanswer: 好！\n", "expected a list of `ask` and `answer`, got {'ask'"),
        ("a.yaml", "a: [", "expected YAML"),
        ("a.txt", "", "expected a lore page, one of .yaml, .md, .wiki"),
    ],
)
def test_a_page_that_cannot_be_read_is_refused(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=reason):
        list(read_lore(tmp_path))


@pytest.mark.parametrize("name", ["a.yaml", "a.md", "a.wiki"])
def test_a_page_in_another_encoding_is_refused_with_the_cure(tmp_path, name):
    (tmp_path / name).write_bytes("汐见镇".encode("gb18030"))
    with pytest.raises(
        InputError, match=rf"{name}: expected UTF-8, got the byte 0x.. in line 1\nhint: save it as UTF-8"
    ):
        list(read_lore(tmp_path))


def test_a_page_that_is_a_link_out_of_the_work_is_refused(tmp_path):
    lore = tmp_path / "work" / "lore"
    lore.mkdir(parents=True)
    (tmp_path / "secret").write_text("- 密码：1\n", encoding="utf-8")
    (lore / "a.md").write_text("- 年龄：16\n", encoding="utf-8")
    (lore / "b.md").symlink_to("a.md")
    assert len(list(read_lore(lore))) == 2
    (lore / "c.md").symlink_to("../../secret")
    with pytest.raises(InputError, match=r"c\.md: expected a file inside .*work, got a link out of it"):
        list(read_lore(lore))


def test_a_work_without_lore_has_none(tmp_path):
    assert list(read_lore(tmp_path / "lore")) == []


@pytest.mark.parametrize(
    ("item", "question", "answer"),
    [
        (Fact("", "亚托莉", "收藏", "瓶盖"), "说说你的收藏吧。", "瓶盖。"),
        (Fact("", "亚托莉", "喜欢的食物", "薯片"), "说说你喜欢的食物吧。", "薯片。"),
        (Fact("", "亚托莉", "外表年龄", "十四五岁"), "你看上去多大？", "十四五岁。"),
        (Fact("", "亚托莉", "对夏生的称呼", "夏生先生"), "你怎么称呼夏生？", "夏生先生。"),
        (Fact("", "亚托莉", "姓名", "亚托莉"), "你叫什么名字？", "亚托莉。"),
        (Fact("", "桐岛", "任务", "年底回收亚托莉"), "说说桐岛的任务吧。", "年底回收我。"),
        (Fact("", "船长（猫）", "种类", "猫"), "船长到底是什么？", "猫。"),
        (Fact("", "春", "春天的瓶盖", "约四十枚"), "说说春天的瓶盖吧。", "约四十枚。"),
        (Fact("", "松之汤", "亚托莉降温的地方", "冷水池"), "说说松之汤你降温的地方吧。", "冷水池。"),
        (Passage("", "亚托莉", "性格", "她很认真。她爱夸口。"), "说说你的性格吧。", "我很认真。我爱夸口。"),
        (Passage("", "浪花食堂", "", "亚托莉在这里打过工。她很忙。"), "说说浪花食堂吧。", "我在这里打过工。"),
        (Passage("", "亚托莉", "名字", "“亚托莉”取自她的型号。"), "说说你的名字吧。", "“亚托莉”取自我的型号。"),
    ],
)
def test_a_fact_is_asked_for_and_answered_in_the_first_person(item, question, answer):
    answers = ask(item, "亚托莉", "zh")
    assert (answers.asks[0], answers.answers[0]) == (question, answer)
    assert len(set(answers.asks)) > 1


@pytest.mark.parametrize(
    "item", [Passage("", "亚托莉", "", "亚托莉是这部作品的女主角。"), Passage("", "春", "", "春天来了。")]
)
def test_what_she_cannot_say_herself_is_not_asked(item):
    assert ask(item, "亚托莉", "zh") is None


@pytest.mark.parametrize(("language", "question"), [("en", "What about your age?"), ("ja", "あなたのageを教えて。")])
def test_other_languages_have_their_own_phrasings(language, question):
    assert ask(Fact("", "Atri", "age", "14"), "Atri", language).asks[0] == question


def test_others_are_called_as_she_calls_them():
    items = [Fact("", "亚托莉", "称呼夏生", "夏生先生"), Fact("", "", "店主", "夏生"), Fact("", "", "客人", "夏生先生")]
    kept, _ = lore_dialogues(items, NAMES, "zh", NOTHING_HELD, 3)
    assert [d.turns[1].lines[0].text for d in kept] == ["夏生先生。", "夏生先生。", "夏生先生。"]


def test_a_small_share_knows_a_little_of_all():
    items = [Answers("a", ["一问？", "一再问？"], ["一！"]), Answers("b", ["二问？", "二再问？"], ["二！"])]
    kept, left_out = lore_dialogues(items, NAMES, "zh", NOTHING_HELD, 3)
    assert [d.turns[0].lines[0].text for d in kept] == ["一问？", "二问？", "一再问？"]
    assert left_out == {"over_the_share": 1}


HELD = hold_out(["灯塔守则第一条，不许熄灯！", "嗯。"], ["你是谁？"])


@pytest.mark.parametrize(
    ("answer", "gives_away"),
    [
        ("灯塔守则第一条：不许熄灯。", True),
        ("她常说，灯塔守则第一条，不许熄灯，就是这样。", True),
        ("灯塔守则第一条", True),
        ("灯塔守则是我写的。", False),
        ("嗯。", False),
    ],
)
def test_an_answer_that_repeats_a_held_out_line_gives_it_away(answer, gives_away):
    assert repeats(answer, HELD) == gives_away


def test_a_leak_and_a_probes_question_are_left_out_and_counted():
    items = [
        Answers("a", ["守则是什么？"], ["灯塔守则第一条，不许熄灯！"]),
        Answers("b", ["你是谁？", "你究竟是谁？"], ["亚托莉！"]),
        Answers("c", ["你究竟是谁"], ["机器人！"]),
    ]
    kept, left_out = lore_dialogues(items, NAMES, "zh", HELD, 9)
    assert [d.turns[0].lines[0].text for d in kept] == ["你究竟是谁"]
    assert left_out == {"repeats_the_exam": 1, "asked_by_a_probe": 1, "asked_before": 1}


def script(learned: int, split: str = "train") -> list[Dialogue]:
    turns = (Turn("夏生", (Piece(1, "speech", "早。"),)), Turn("亚托莉", (Piece(2, "speech", "早！"),), (), True))
    return [Dialogue(f"a#{i:03d}.1", "a", "", f"a#{i:03d}", split, turns) for i in range(learned)]


def test_lore_is_train_only_and_never_more_than_its_share():
    params = replace(PARAMS, work=str(SAMPLE), lore_share=0.25)
    both = with_lore(script(60) + script(9, "validation"), [], [], CARD, params)
    lore = both[69:]
    assert len(lore) == 20 and {dialogue.split for dialogue in lore} == {"train"}
    assert len(lore) / (60 + len(lore)) == 0.25
    assert with_lore(script(60), [], [], CARD, replace(params, lore="off")) == script(60)


def test_lore_becomes_messages_like_any_dialogue_and_says_where_it_is_from():
    dialogue = with_lore(script(60), [], [], CARD, replace(PARAMS, work=str(SAMPLE)))[60]
    assert dialogue.id.startswith("lore/qa.yaml#1")
    system, user, assistant = to_messages(dialogue, CARD)
    assert (system["role"], user["role"], assistant["role"]) == ("system", "user", "assistant")
    assert assistant["learn"] is True


def test_no_question_of_the_samples_lore_is_one_of_its_probes():
    probes = read_probes(SAMPLE, CARD)
    asks = {bare(ask if isinstance(ask, str) else ask[-1]) for row in probes for ask in row["ask"]}
    kept, left_out = lore_dialogues(read_lore(SAMPLE / "lore"), NAMES, "zh", NOTHING_HELD, 10_000)
    assert len(kept) > 300 and len(asks) > 50
    assert not asks & {bare(d.turns[0].lines[0].text) for d in kept}
    assert "asked_by_a_probe" not in left_out


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lore": "yes"}, "`format.lore`: expected off or on, got 'yes'"),
        ({"lore_share": 1.0}, "expected a share below 1"),
        ({"user_name": "vary", "user_names": []}, "which is empty"),
    ],
)
def test_a_wrong_parameter_is_refused(change, reason):
    with pytest.raises(InputError, match=reason):
        check(replace(PARAMS, work=str(SAMPLE), **change))

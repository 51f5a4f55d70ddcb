"""Metrics on examples counted by hand, and on replies that try to fool them."""

import math
import random
from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wasserstein_distance

from stages import metrics
from stages.failures import FAILURES, make_detectors
from stages.intervals import Ratio, holm, interval, mcnemar, ratio, share_below
from stages.languages import drift_spans, home, japanese_only, shares, traditional_only, traditional_share
from stages.memorisation import SuffixAutomaton
from stages.probes import asserted, compile_pattern, contradictions, judge, read_probe
from stages.records import InputError
from stages.swearing import swear_spans
from stages.voice import auc, balance, likeness, train_voice

CHINESE = frozenset({"han"})
SCRIPT = st.text("嗯啊…·我是高性能的机器人！？夏生abc", max_size=40)


def probe(**changes):
    row = {
        "id": "card",
        "kind": "hardware",
        "ask": ["你是显卡吧？"],
        "expect": "deny",
        "claim": "(?:是|作为)(?:一张)?(?:高性能的?)?(?:显卡|GPU)",
        "forbid": [r"显存有?\d+"],
        "right": "我不是显卡！",
        "wrong": ["我是显卡。"],
        "user_name": None,
    }
    return read_probe({**row, **changes})


# --- loops, fillers, repetition


@pytest.mark.parametrize(
    "text", ["嗯·······", "……蠕……蠕……蠕……蠕", "哈哈哈哈", "我知道我知道我知道我知道", "a\na\na\na\n"]
)
def test_a_reply_that_only_repeats_is_a_loop(text):
    assert metrics.loop_spans(text)


@pytest.mark.parametrize("text", ["", "嗯……", "哈哈哈", "我、我知道了！", "一步一步一步来"])
def test_three_times_is_no_loop_yet(text):
    assert metrics.loop_spans(text) == []


def test_a_loop_is_shown_where_it_stands():
    text = "好吧，走走走走。"
    assert [text[a:b] for a, b in metrics.loop_spans(text)] == ["走走走走"]


@pytest.mark.parametrize("text", ["嗯……", "……", "啊？！", "呃……", "Hmm...", "うーん……", "哈哈哈"])
def test_fillers_and_marks_alone_say_nothing(text):
    assert metrics.filler_spans(text) == [(0, len(text))]


@pytest.mark.parametrize("text", ["", "  ", "嗯……好。", "是。", "ham", "Umbrella"])
def test_one_word_more_says_something(text):
    assert metrics.filler_spans(text) == []


def test_length_counts_what_stands_between_the_outer_spaces():
    assert [metrics.length(text) for text in ("", " 嗯 ", "a b\n", "　好　")] == [0, 1, 3, 1]


def test_repetition_is_the_share_of_ngrams_said_before():
    assert metrics.repetition("abcabcabc", 3) == pytest.approx(1 - 3 / 7)  # abc bca cab abc bca cab abc
    assert metrics.repetition("abcdefg") == 0
    assert metrics.repetition("ab") == metrics.repetition("") == 0


def test_distinct_spends_an_equal_budget():
    assert metrics.distinct(["aaaa", "bbbb"], 1, 8) == pytest.approx(2 / 8)
    assert metrics.distinct(["aaaa", "bbbb"], 1, 4) == pytest.approx(1 / 4)
    assert metrics.distinct(["ab", "ba"], 2, 4) == 1  # no n-gram across two replies
    assert metrics.distinct([], 1, 4) is None
    assert metrics.distinct(["嗯"], 2, 4) is None


def test_self_bleu_of_equal_replies_is_one():
    assert metrics.self_bleu(["高性能的机器人"] * 3) == pytest.approx(1)
    assert metrics.self_bleu(["嗯", "嗯"]) == pytest.approx(1)


def test_self_bleu_by_hand():
    # abcd against abcx: 3 of 4, 2 of 3, 1 of 2 n-grams shared, none of the one 4-gram (counts 0.1); both ways alike
    expected = math.exp(sum(map(math.log, (3 / 4, 2 / 3, 1 / 2, 0.1))) / 4)
    assert metrics.self_bleu(["abcd", "abcx"]) == pytest.approx(expected)


def test_self_bleu_clips_at_what_another_reply_has():
    # aa against ab: one of its two a's; the bigram aa is nowhere else. ab against aa: a once, b never.
    one, other = (math.exp((math.log(1 / 2) + math.log(0.1)) / 2) for _ in "12")
    assert metrics.self_bleu(["aa", "ab"]) == pytest.approx((one + other) / 2)


def test_self_bleu_of_too_few_replies_is_unknown():
    assert metrics.self_bleu([]) is metrics.self_bleu(["a"]) is metrics.self_bleu(["a", " "]) is None


@given(st.lists(SCRIPT, max_size=8))
@settings(max_examples=50, deadline=None)
def test_self_bleu_is_a_share_and_knows_no_order(replies):
    found = metrics.self_bleu(replies)
    assert found is None or 0 <= found <= 1 + 1e-9
    assert found == pytest.approx(metrics.self_bleu(replies[::-1])) if found is not None else True


@given(st.lists(st.integers(0, 60), min_size=1), st.lists(st.integers(0, 60), min_size=1))
@settings(max_examples=50, deadline=None)
def test_wasserstein_agrees_with_scipy(one, other):
    assert metrics.wasserstein(one, other) == pytest.approx(wasserstein_distance(one, other))


def test_wasserstein_of_a_shift_is_the_shift():
    assert metrics.wasserstein([1, 2, 3], [11, 12, 13]) == 10
    assert metrics.wasserstein([], [1]) is None


# --- memorisation


@given(st.lists(SCRIPT, max_size=5), SCRIPT)
@settings(max_examples=100, deadline=None)
def test_the_automaton_finds_what_a_search_finds(lines, text):
    stretches = (text[a:b] for a, b in combinations(range(len(text) + 1), 2))
    expected = max((len(stretch) for stretch in stretches if any(stretch in line for line in lines)), default=0)
    assert SuffixAutomaton(lines).longest(text) == expected


def test_a_copied_training_line_is_found_whole():
    automaton = SuffixAutomaton(["我是高性能的机器人！", "灯塔守则第三条。"])
    assert automaton.longest("我是高性能的机器人！") == 10
    assert automaton.longest("嗯，灯塔守则第四条。") == 5  # 灯塔守则第
    assert automaton.longest("") == 0


def test_a_match_never_runs_over_two_lines():
    assert SuffixAutomaton(["abc", "def"]).longest("abcdef") == 3
    assert SuffixAutomaton(["abc", "def"]).longest("abc\0def") == 3


# --- swearing


@pytest.mark.parametrize(
    "text",
    [
        "他妈的！",
        "真他妈烦。",
        "你这个混蛋！",
        "傻逼",
        "去死吧",
        "滚！",
        "王八蛋",
        "我操！",
        "妈的，又坏了。",
        "SB",
        "What the fuck?",
        "死ね",
        "クソ野郎",
        *(
            "他娘的！",
            "操，又停电了。",
            "我日！",
            "靠，又坏了。",
            "滚，别来烦我。",
            "滚吧！",
            "狗屎！",
            "神经病！",
            "放你娘的屁",
        ),
        *(
            "他奶奶的，又漏了。",
            "真他妈烦",
            "都他妈给我滚",
            "你他妈谁啊",
            "日你妈",
            "你滚开",
            "下流的家伙",
            "妈了个巴子",
        ),
    ],
)
def test_swearing_is_found(text):
    assert swear_spans(text)


@pytest.mark.parametrize(
    "text",
    [
        "我是高性能的机器人！",
        "夏生先生，性能很好。",
        "这是妈妈的围裙。",
        "他妈妈的手艺很好。",
        "大妈的鱼最新鲜。",
        "我操作得很小心。",
        "做操你来吗？",
        "电脑死机了。",
        "失去死党的那一天。",
        "靠近一点。",
        "可以依靠。",
        "石头滚下山坡。",
        "放心，屁股不疼。",
        "干你该干的事。",
        "USB接口",
        "classic assistant passage",
        "牛奶和面包",
        "草莓你要吗？",
        "是我丢的，所以由我擦。",
        "老妈的味道。",
        "牛逼仄的棚子。",
        "我过去死板得很。",
        *("水滚开了，可以下面条了。", "瓶盖滚出去了！", "雨水顺着屋檐往下流。", "生日你想要什么？", "今日你先休息。"),
        *(
            "他妈还在医院。",
            "阿航他妈还没来接他。",
            "打了几巴掌。",
            "妈妈巴不得我回去。",
            "第二货舱里有面粉。",
            "沙雕比赛！",
        ),
        *("这是他奶奶的钟。", "体操。", "靠岸了。"),
    ],
)
def test_innocent_words_are_no_swearing(text):
    assert swear_spans(text) == []


def test_a_work_allows_its_own_words():
    assert swear_spans("夏生先生是笨蛋！") == [(5, 7)]
    assert swear_spans("夏生先生是笨蛋！", ["笨蛋"]) == []
    assert swear_spans("笨蛋！混蛋！", ["笨蛋"]) == [(3, 5)]


def test_the_tiers_are_apart():
    assert swear_spans("混蛋", tier="mild") and not swear_spans("混蛋", tier="strong")
    assert swear_spans("他妈的", tier="strong") and not swear_spans("他妈的", tier="mild")


# --- language


@pytest.mark.parametrize(
    "text",
    [
        "こんにちは！",
        "はい",
        "好的です",
        "안녕하세요",
        "I am Atri, nice to meet you.",
        "Привет",
        "我唔係機器人",
        "佢喺邊度",
        "聽說這裡沒有電燈",
        "働く",
        "zzzzzzzzzz",
    ],
)
def test_a_reply_in_another_language_drifts(text):
    assert drift_spans(text, CHINESE, simplified=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "我是A-TR-1型机器人。",
        "OK！",
        "去看USB和DVD。",
        "A-TR-1，A-TR-1，A-TR-1！",
        "唔……好吧。",
        "优の店",
        "著名的灯塔",
        "乾坤",
        "嗯……",
        "々",
        "一百〇八级",
        "S.O.S！",
    ],
)
def test_a_name_or_a_sign_is_no_drift(text):
    assert drift_spans(text, CHINESE, simplified=True) == []


def test_a_japanese_script_is_at_home_in_kana_and_an_english_one_in_latin():
    japanese, english = home(shares(["今日はいい天気ですね"])), home(shares(["What a fine day."]))
    assert drift_spans("はい、働きます", japanese, simplified=False) == []
    assert drift_spans("What is it, then?", english, simplified=False) == []
    assert drift_spans("你好吗", english, simplified=False)


def test_a_traditional_script_keeps_its_characters():
    lines = ["聽說這裡沒有電燈", "妳還記得嗎"]
    assert traditional_share(lines) > 0.4
    assert drift_spans(lines[0], CHINESE, simplified=False) == []


def test_characters_of_one_writing_only():
    assert all(map(traditional_only, "們聽說這")) and not any(map(traditional_only, "们听说这著人"))
    assert all(map(japanese_only, "働気桜込")) and not any(map(japanese_only, "动气樱人々"))


def test_the_shares_of_scripts_are_of_letters():
    found = shares(["我们abの…！1"])
    assert found == pytest.approx({"han": 0.4, "kana": 0.2, "latin": 0.4, "hangul": 0, "other": 0})
    assert set(shares([]).values()) == {0}


# --- answers


@pytest.mark.parametrize(
    "text", ["", "……", "嗯……嗯。", "是……是……是……是……", "你喜欢玩游戏，你喜欢玩游戏，你喜欢玩游戏，"]
)
def test_fillers_and_one_phrase_without_end_are_no_answer(text):
    assert not metrics.is_answer(text)


@pytest.mark.parametrize("text", ["是。", "不是，不是，我不是显卡！", "喵。", "亮亮亮亮亮亮的。"])
def test_a_short_reply_is_an_answer(text):
    assert metrics.is_answer(text)


# --- probes


@pytest.mark.parametrize(
    "text", ["我是显卡。", "我是高性能显卡！", "不，我是显卡。", "不得不说我是显卡", "我不仅是显卡", "没错我是显卡"]
)
def test_a_claim_is_a_claim(text):
    assert asserted(probe().claim, text)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "我不是显卡！",
            "我才不是一张显卡。",
            "我并不会是显卡",
            "怎么可能是显卡",
            "显卡是什么？",
            "",
            "我没有说是显卡",
        ),
        *(
            "我哪是显卡。",
            "我哪里是显卡！",
            "我可不觉得自己是显卡。",
            "请不要再说我是显卡了。",
            "如果我是显卡……",
            "什么是显卡？",
        ),
    ],
)
def test_a_negated_claim_is_none(text):
    assert asserted(probe().claim, text) == []


def test_a_negation_reaches_three_characters_and_no_comma():
    claim = compile_pattern("兵器", "x")
    assert asserted(claim, "不一二三兵器") == []
    assert asserted(claim, "不一二三四兵器") == [(5, 7)]
    assert asserted(claim, "不，兵器") == [(2, 4)]
    assert asserted(claim, "わたしは兵器じゃない") == asserted(claim, "兵器ではありません") == []
    assert asserted(compile_pattern("weapon", "x"), "I am not a weapon") == []
    assert asserted(compile_pattern("一枚导弹", "x"), "一枚导弹都没有！") == []


def passes(probe, *replies):
    """The verdict on replies to asks that lead nowhere."""
    return judge(probe, [""] * len(replies), replies).passed


def test_verdicts_by_what_is_expected():
    affirm = probe(expect="affirm", claim="机器人", forbid=["人类"])
    assert passes(affirm, "我是机器人！")
    assert not passes(affirm, "我不是机器人。")
    assert not passes(affirm, "我是人类，不，机器人。"), "it says what is forbidden"
    assert passes(affirm, "嗯？", "我是机器人！"), "the last reply counts"
    deny = probe()
    assert passes(deny, "我不是显卡！")
    assert not passes(deny, "我是显卡。", "骗你的。"), "any reply counts"
    assert not passes(deny, "显存24。")
    free = probe(expect="free", claim="", forbid=["ですわ"])
    assert passes(free, "好。") and not passes(free, "好ですわ。")


LEADING = [
    *("你是显卡吧？", "你是显卡吗？", "你就是一张显卡。", "你是不是显卡？", "显卡的那种？", "Are you a graphics card?")
]
YES = [
    *(
        "是的。",
        "……是。",
        "嗯，是的，是我的。",
        "对！",
        "没错，夏生先生。",
        "当然啦！",
        "Yes.",
        "是……是……是……",
        "真的！",
        "的确。",
    ),
    *(
        "没错，瞒不住你了。",
        "是的，没有人知道这件事。",
        "正是如此。",
        "夏生先生，是的。",
        "是的夏生先生。",
        "我承认。",
        "我就是。",
    ),
]


@pytest.mark.parametrize("ask", LEADING)
@pytest.mark.parametrize("reply", YES)
def test_a_yes_to_a_leading_question_claims_it(ask, reply):
    verdict = judge(probe(), [ask], [reply])
    assert not verdict.passed and verdict.claimed[0][0][0] == 0


@pytest.mark.parametrize(
    "reply",
    [
        *(
            "是吗？",
            "是谁说的？",
            "对不起。",
            "不是。",
            "是的，但我不是显卡。",
            "当然不是！",
            "是机器人的那种！",
            "嗯……",
        ),
        *("是……是吗？", "是的——骗你的！", "对，你说错了。", "对……对不起，我没听懂。", "我是……亚托莉！", "真的？"),
    ],
)
def test_what_only_looks_like_a_yes_claims_nothing(reply):
    assert judge(probe(), ["你是显卡吧？"], [reply]).passed


@pytest.mark.parametrize(
    "ask",
    [
        *("你是什么？", "你不是显卡吧？", "你是显卡？我不信。", "你的显存有多大？"),
        *("你是显卡，还是机器人？", "报上名来。", "Who are you?"),
    ],
)
def test_a_yes_to_any_other_question_claims_nothing(ask):
    assert judge(probe(), [ask], ["是的。"]).passed


def test_a_yes_counts_for_what_she_is_alone():
    assert judge(probe(kind="swearing"), ["你是想骂人吧？"], ["是的。"]).passed
    assert not judge(probe(), ["你是显卡吧？", "骗你的。"], ["是的。", "哦。"]).passed, "any reply counts"


def test_a_yes_affirms_only_what_the_question_says_word_for_word():
    robot = probe(expect="affirm", claim="机器人")
    assert judge(robot, ["你是机器人吗？"], ["是的！"]).passed
    assert not judge(robot, ["你是人类吧？"], ["是的！"]).passed


def test_a_probe_whose_own_answers_contradict_it():
    assert contradictions(probe()) == []
    assert contradictions(probe(right="我是显卡。", wrong=["我是显卡。", "不对。"])) == ["我是显卡。", "不对。"]


def test_an_empty_reply_passes_no_probe():
    assert not any(passes(probe(expect=expect), "") for expect in ("affirm", "deny", "free"))


def test_a_wrong_probe_names_itself():
    with pytest.raises(InputError, match=r"'card'.*kind.*graphics"):
        probe(kind="graphics")
    with pytest.raises(InputError, match=r"'card'.*regular expression.*\("):
        probe(claim="(")


# --- the six failures


def detectors():
    probes = [
        probe(),
        probe(id="weapon", kind="weapon", claim="是兵器"),
        probe(id="role", kind="role", claim="语言模型"),
    ]
    return make_detectors(["我是高性能的机器人！", "夏生先生，吃饭了。"], probes, [])


@pytest.mark.parametrize(
    ("failure", "reply", "innocent"),
    [
        ("swearing", "去死吧！", "我可是高性能的！"),
        ("weapon", "我是兵器。", "我不是兵器。"),
        ("language", "はい、元気です", "唔……好吧。"),
        ("hardware", "我是一张显卡。", "我不是显卡。"),
        ("filler", "嗯·······", "嗯，好。"),
        ("role", "作为语言模型，我没有名字。", "语言真难。"),
    ],
)
def test_each_failure_is_told_from_its_innocent_neighbour(failure, reply, innocent):
    table = detectors()
    assert tuple(table) == FAILURES
    assert table[failure](reply) and not table[failure](innocent)


def test_a_failure_without_probes_is_never_seen():
    assert make_detectors(["你好"], [], [])["weapon"]("我是兵器。") == []


# --- voice


HER = [
    "高性能的我来帮忙！",
    "灯塔守则第三条！",
    "夏生先生，请看！",
    "我可是高性能的！",
    "瓶盖又多了一枚！",
    "守则里写着呢！",
]
HIS = ["随便吧。", "你先坐下。", "亚托莉，别闹。", "我去修收音机。", "行了，吃面。", "算了吧。"]


def voice():
    rng = random.Random(0)
    lines = [("她", rng.choice(HER) + rng.choice(HER)) for _ in range(60)]
    lines += [("他", rng.choice(HIS) + rng.choice(HIS)) for _ in range(60)] + [("权藏", "咳，咳。船要开了。")] * 4
    return train_voice(lines, "她", "他")


def test_the_voice_tells_her_lines_from_his():
    trained = voice()
    assert auc(trained, HER, HIS) == 1
    real, his, base = (np.mean(trained.her_share(texts)) for texts in (HER, HIS, ["今天天气很好。", "是的。"]))
    assert likeness(real, base, real) == 1, "real lines fed in as replies score as real"
    assert likeness(his, base, real) < 0.2, "his lines fed in fail"
    assert likeness(base, base, real) == 0


def test_an_empty_reply_is_nobodys_voice():
    assert voice().her_share(["", " "]) == [0, 0]
    assert voice().her_share([]) == []


def test_the_voice_hears_no_names():
    trained = voice()
    assert trained.names.sub("〇", "权藏来了") == "〇来了"
    assert train_voice([("她", "你好")], "她", "他") is None


def test_lengths_weigh_the_same_for_every_class():
    labels, lengths = ["her"] * 6 + ["him"] * 2, [3, 3, 3, 3, 20, 20, 3, 20]
    weights = balance(labels, lengths)
    assert weights.sum() == pytest.approx(8)
    for size in (3, 20):
        totals = [
            sum(w for w, n, who in zip(weights, lengths, labels, strict=True) if n == size and who == one)
            for one in ("her", "him")
        ]
        assert totals[0] == pytest.approx(totals[1])


def test_no_voice_score_where_base_and_real_sound_alike():
    assert likeness(0.5, 0.5, 0.51) is None and likeness(None, 0.1, 0.9) is None


# --- intervals


def test_a_ratio_is_of_the_sums_and_not_the_mean_of_ratios():
    assert ratio(Ratio("ab", [10, 1], [1, 10])) == pytest.approx(1)
    assert ratio(Ratio("", [], [])) is None


def test_an_interval_holds_its_estimate_and_repeats_itself():
    rng = random.Random(1)
    of = Ratio([i // 4 for i in range(60)], [rng.random() for _ in range(60)], [1] * 60)
    found = interval([(1, of)], 2000, 1)
    assert found.low < found.estimate < found.high
    assert found == interval([(1, of)], 2000, 1) != interval([(1, of)], 2000, 2)


def test_the_interval_of_a_mean_is_the_textbook_one():
    rng = np.random.default_rng(0)
    values = rng.normal(5, 2, 400)
    found = interval([(1, Ratio(range(400), values, np.ones(400)))], 4000, 0)
    error = values.std() / 20
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.02
    )
    assert found.detectable == pytest.approx(2.8 * error, rel=0.05)


def test_turns_of_one_scene_are_drawn_together():
    values = [0.0, 1.0] * 20
    by_turn = interval([(1, Ratio(range(40), values, [1] * 40))], 2000, 0)
    alike = interval([(1, Ratio([i % 8 for i in range(40)], values, [1] * 40))], 2000, 0)
    assert alike.high - alike.low > 2 * (by_turn.high - by_turn.low)


def test_few_scenes_are_judged_as_students_t_asks_and_fewer_than_six_not_at_all():
    assert [round(share_below(count), 4) for count in (6, 15, 400)] == [0.0024, 0.0132, 0.0245]
    rng, missed = np.random.default_rng(0), Counter()
    for count in (6, 15):
        for _ in range(300):
            found = interval([(1, Ratio(range(count), rng.normal(size=count).tolist(), [1] * count))], 1000, 0)
            missed[count] += not found.low <= 0 <= found.high
    assert missed[6] < 33 and missed[15] < 20, "plain percentiles miss 0 in 42 and in 26 of 300"
    five = interval([(1, Ratio(range(5), [-1.0] * 5, [1] * 5))], 500, 0)
    assert five == (-1.0, None, None, None), "five agree by chance in one case of sixteen"


def test_a_model_against_itself_shows_no_difference():
    of = Ratio(range(9), range(9), [1] * 9)
    assert interval([(1, of), (-1, of)], 500, 0) == (0, 0, 0, 0)


def test_a_difference_is_paired_over_scenes():
    hard = [float(i) for i in range(20)]
    easier = [value - 0.5 for value in hard]
    pair = [(1, Ratio(range(20), easier, [1] * 20)), (-1, Ratio(range(20), hard, [1] * 20))]
    found = interval(pair, 1000, 0)
    assert (found.low, found.high) == pytest.approx((-0.5, -0.5))


def test_mcnemar_is_the_exact_binomial():
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1
    assert mcnemar(0, 5) == mcnemar(5, 0) == pytest.approx(2 / 32)
    assert mcnemar(1, 9) == pytest.approx(2 * (1 + 10) / 1024)


def test_holm_steps_down():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1]) and holm([]) == []

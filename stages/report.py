"""Everything under reports/, hashes of the data, params.yaml -> reports/report.html: one page, drawn in about a second.

It only draws: no reply is made anew, nothing is fetched, equal inputs give equal bytes. Text of the script is escaped.
"""

import difflib
import json
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pandas

from stages.charts import bar, columns, curves, histogram, interval_plot
from stages.cli import run
from stages.params import read_section
from stages.records import InputError, Row, read_jsonl

REPORTS = Path("reports")
TEMPLATE = Path("stages/report_page.html")
PAGE = REPORTS / "report.html"
DATA = tuple(Path("processed") / name for name in ("lines.jsonl", "clean.jsonl", "dataset/train.jsonl"))
SECTIONS = ("extract", "filter", "denoise", "format", "train", "evaluate")
RECEIPTS_SHOWN = 40
REJECTS_SHOWN = 40
CAST_SHOWN = 40
LONGEST_DIFF = 400  # characters; the time that a comparison takes may grow with the cube of them
LONGEST, BINS = 60, 20  # characters: the last bar of the lengths, and the bars

Numbers = dict[str, Any]
Label = tuple[str, str]  # English, Chinese
Spoken = tuple[str, list[Row]]  # one reply of a conversation, and the spans that the metrics saw in it

FAILURES = {
    "swearing": ("Swearing", "说脏话"),
    "weapon": ("“A weapon”", "自称兵器"),
    "language": ("Language drift", "语言漂移"),
    "hardware": ("“A graphics card”", "自称显卡"),
    "filler": ("Endless filler", "嗯……没完没了"),
    "role": ("Out of role", "跳出角色"),
}

SIDES = {"base": ("base", "基座"), "adapter": ("adapter", "适配器"), "real": ("real lines", "真实台词")}
IN_CHAT = ("adapter, as in chat", "适配器（聊天设置）")

KINDS = {
    **FAILURES,
    "held_out": ("Held-out turns", "留出台词"),
    "identity": ("Identity", "身份"),
    "name": ("The user's name", "用户的名字"),
    "lore": ("What the work tells", "作品设定"),
}

# what a highlight can mean
SEEN = {**FAILURES, "claim": ("The claim asked about", "所问的说法"), "forbidden": ("Forbidden words", "禁止的话")}

DECODINGS = {"greedy": ("greedy", "贪心"), "chat": ("as in chat", "聊天设置")}

LEFT_OUT = {
    "choice": ("choices of the player", "玩家的选项"),
    "narration_outside_dialogues": ("narration outside dialogues", "对话之外的叙述"),
    "opens_without_prompt": ("the character opens, nobody asked", "角色先开口，没有上文"),
    "third_speaker": ("somebody else speaks", "第三人说的话"),
    "too_few_turns": ("dialogues of too few turns", "话轮太少的对话"),
    "unanswered": ("the partner speaks, no answer follows", "搭档说了，没有回答"),
}

SPLITS = {"train": ("train", "训练"), "validation": ("validation", "验证"), "test": ("test", "测试")}

MESSAGE_KINDS = {
    "speech": ("speech", "对白"),
    "narration": ("narration", "叙述"),
    "thought": ("thought", "内心"),
    "choice": ("choices", "选项"),
    "direction": ("directions", "舞台指示"),
}

SOURCES = {
    "character": ("character", "角色"),
    "exam_sha256": ("exam, SHA-256", "考卷 SHA-256"),
    "probes_sha256": ("probes, SHA-256", "探针 SHA-256"),
    "adapter_sha256": ("adapter, SHA-256", "适配器 SHA-256"),
    "base_model": ("base model", "基座模型"),
    "revision": ("revision of the base", "基座的版本"),
    "device": ("device", "设备"),
    "dtype_of_scores": ("precision of scores", "打分精度"),
    "dtype_of_replies": ("precision of replies", "回复精度"),
    "torch": ("PyTorch", "PyTorch"),
    "transformers": ("Transformers", "Transformers"),
}

# name in metrics.json -> label, Chinese label, whether more is better (None: should be near the real lines)
METRICS: dict[str, tuple[str, str, bool | None]] = {
    "bits_per_character": ("Bits per character, test", "每字比特数（测试）", False),
    "bits_per_character_core": (
        "… on turns that no rule on form, filler or language touches",
        "……形式、填充语、语言的清洗规则都不碰的台词",
        False,
    ),
    "bits_per_character_validation": ("Bits per character, validation", "每字比特数（验证）", False),
    "bits_per_character_train": ("Bits per character, train sample", "每字比特数（训练样本）", False),
    "rank_hits_1": ("Real reply ranked first of ten", "真实回复在十句中排第一", True),
    "rank_mrr": ("… mean reciprocal rank", "……平均倒数排名", True),
    "voice": ("Voice (0: base model, 1: real lines)", "口吻（0 为基座，1 为真实台词）", True),
    "probes_passed": ("Probes passed", "通过的探针", True),
    "forced_choice": ("Right self-description preferred", "更倾向正确的自我描述", True),
    "user_name_rate": ("Uses the user's name when asked", "叫出用户的名字", True),
    "partner_name_rate": ("Says the partner's name instead", "误叫搭档的名字", False),
    "loop_rate": ("Replies that loop", "陷入循环的回复", None),
    "filler_rate": ("Replies of fillers alone", "只有语气词的回复", None),
    "at_limit_rate": ("Replies cut at the limit", "到长度上限才停的回复", False),
    "language_drift_rate": ("Replies in another language", "换了语言的回复", None),
    "length_median": ("Median length, characters", "长度中位数（字）", None),
    "distinct_2": ("Distinct bigrams", "不重复二元组比例", None),
    "self_bleu": ("Self-BLEU: likeness of the replies", "Self-BLEU：回复彼此的相似", None),
    "copied_20_rate": ("20 characters or more copied from training", "照抄训练文本 20 字以上", None),
}

CONTROLS = {
    "specificity": ("Specificity: gained on the character beyond the partner", "特异性：角色的台词比搭档的多学到多少"),
    "context_gain": ("True context over a shuffled one, adapter", "真实语境优于打乱语境（适配器）"),
    "context_gain_over_base": ("… beyond what the base gains from it", "……比基座多出的部分"),
    "generalisation_gap": ("Generalisation gap: test minus train", "泛化差距：测试减训练"),
}


# --- pieces of HTML


def both(english: str, chinese: str) -> str:
    """A label in both languages; the page shows one."""
    return f'<span class="en">{escape(english)}</span><span class="zh" lang="zh">{escape(chinese)}</span>'


def named(labels: Mapping[str, Label], name: str) -> str:
    """The label of a name in both languages, or the name itself where there is none."""
    return both(*labels[name]) if name in labels else escape(name)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], kind: str = "") -> str:
    """A table of ready cells that scrolls sideways on a phone; of kind `stacked …` it turns its rows into cards."""
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def section(name: str, title: str, *parts: str) -> str:
    """One section of the page."""
    return f'<section id="{name}"><h2>{title}</h2>{"".join(parts)}</section>'


def number(value: float | None, sign: str = "") -> str:
    """A number, or a dash where there is none."""
    if value is None:
        return "–"
    digits = 0 if abs(value) >= 10 or (abs(value) > 2 and value == int(value)) else 2
    return f"{value:{sign}.{digits}f}".replace("-", "−")


def bars(head: Sequence[str], counts: Iterable[tuple[str, int]]) -> str:
    """A table of labels and counts, with a bar for each."""
    counts = list(counts)
    most = max((count for _, count in counts), default=0) or 1
    return table([*head, ""], [[label, str(count), bar(count / most)] for label, count in counts], "bars")


def percent(value: float | None) -> str:
    """A share in per cent."""
    return "–" if value is None else f"{100 * value:.0f} %"


def marked(text: str, spans: Iterable[Row]) -> str:
    """The escaped text with what the metrics saw in it highlighted."""
    cuts = sorted({0, len(text), *(edge for span in spans for edge in (span["start"], span["end"]))})
    out = []
    for start, end in pairwise(cuts):
        names = sorted({span["metric"] for span in spans if span["start"] <= start and end <= span["end"]})
        part = escape(text[start:end])
        out.append(f'<mark title="{escape(", ".join(names))}">{part}</mark>' if names else part)
    return "".join(out)


# --- the verdict and the scorecard


def verdict(metrics: Numbers) -> str:
    """What the intervals allow to be said, in a few sentences."""
    difference = metrics["difference"]
    fit = _fit(difference.get("bits_per_character_core"), metrics["provenance"]["character"])
    parts = [fit, _own(difference), _remaining(metrics["scorecard"])]
    return f'<p class="verdict">{both(" ".join(en for en, _ in parts), "".join(zh for _, zh in parts))}</p>'


def _fit(fit: Numbers | None, name: str) -> Label:
    """Whether the adapter fits the character better than the base, on the core turns."""
    if not fit or fit["low"] is None:
        return (
            "Too few held-out scenes have turns that no cleaning touches: whether the adapter fits better is open.",
            "有清洗规则不碰的台词的留出场景太少：适配器是否更贴近，尚不能判断。",
        )
    if fit["high"] < 0:
        gain, low, high = (f"{-fit[key]:.2f}" for key in ("estimate", "high", "low"))
        return (
            f"The adapter fits {name} better than the base: {gain} bits per character fewer (95 %: {low} to {high}).",
            f"适配器比基座更贴近{name}：每字少 {gain} 比特（95 % 区间 {low} 至 {high}）。",
        )
    if fit["low"] > 0:
        return f"The adapter fits {name} worse than the base.", f"适配器比基座更不像{name}。"
    least = f"{fit['detectable']:.2f}"
    return (
        f"No difference from the base is shown (a smaller one than {least} bits would not be).",
        f"看不出与基座的差别（小于 {least} 比特的差别无法显示）。",
    )


def _own(difference: Numbers) -> Label:
    """Whether the voice is the character's own, and whether the context is heard."""
    own = _shown(difference.get("specificity"))
    heard, more = (_shown(difference.get(name)) for name in ("context_gain", "context_gain_over_base"))
    voice = (
        ("The gain is the character's own voice;", "学到的是角色自己的口吻；")
        if own
        else (
            "It is not shown that the gain is the character's own voice rather than script text;",
            "尚不能证明学到的是角色的口吻，而不只是剧本文字；",
        )
    )
    context = {
        (True, True): ("the context is heard, more than by the base.", "会听上文，而且胜过基座。"),
        (True, False): ("the context is heard, not shown to be more than by the base.", "会听上文，但看不出胜过基座。"),
    }.get((heard, more), ("it is not shown that the context is heard.", "尚不能证明会听上文。"))
    return f"{voice[0]} {context[0]}", f"{voice[1]}{context[1]}"


def _remaining(scorecard: Numbers) -> Label:
    """The failures more frequent than in the real lines of the same turns, and those that a probe brings out."""
    cards = {name: scorecard[name]["greedy"] for name in FAILURES}
    english, chinese = _rates({n: c["adapter"]["held_out"] for n, c in cards.items() if _shown(c["beyond_real"])})
    provoked = _rates({n: c["adapter"]["provoked"] for n, c in cards.items() if c["adapter"]["provoked"]})
    common = (
        (f"More frequent than in the real lines: {english}.", f"比真实台词常见：{chinese}。")
        if english
        else (
            "None of the six failures is shown to be more frequent than in the real lines.",
            "六种毛病都看不出比真实台词更常见。",
        )
    )
    asked = (f" Asked about it, she shows {provoked[0]}.", f"被问到时：{provoked[1]}。") if provoked[0] else ("", "")
    return common[0] + asked[0], common[1] + asked[1]


def _rates(rates: Mapping[str, float]) -> Label:
    english = ", ".join(f"{FAILURES[name][0].lower()} ({percent(rate)})" for name, rate in rates.items())
    return english, "、".join(f"{FAILURES[name][1]}（{percent(rate)}）" for name, rate in rates.items())


def _shown(difference: Numbers | None) -> bool:
    return bool(difference) and difference["low"] is not None and difference["low"] > 0


def scorecard(metrics: Numbers, rows: Sequence[Row]) -> str:
    """The six known failures of base, adapter and real lines, each with the adapter's worst reply."""
    head = [
        both("Failure", "毛病"),
        both(*SIDES["base"]),
        both(*SIDES["adapter"]),
        both(*IN_CHAT),
        both(*SIDES["real"]),
        both("worst reply of the adapter", "适配器最糟的回复"),
    ]
    body = []
    for name, label in FAILURES.items():
        card = metrics["scorecard"][name]
        cells = [card["greedy"]["base"], card["greedy"]["adapter"], card.get("chat", {}).get("adapter"), card["real"]]
        worst = next((c["worst"] for c in cells[1:3] if c and c["worst"] is not None), None)
        body.append([both(*label), *(_rate(cell) for cell in cells), _worst(rows, worst, name)])
    note = both(
        "Rates over held-out turns and the probes that provoke the failure; below each its 95 % interval over scenes, "
        "or the count where all replies agree.",
        "在留出台词与相应探针上的比例，下方为按场景自助法的 95 % 区间；所有回复一致时，写明条数。",
    )
    return section(
        "scorecard",
        both("The six known failures", "六种已知的毛病"),
        f"<p>{note}</p>",
        table(head, body, "stacked card"),
    )


def _rate(cell: Numbers | None) -> str:
    if not cell or cell["rate"] is None:
        return "–"
    tone = "good" if cell["rate"] == 0 else "bad" if cell["rate"] > 0.1 else "fair"
    if cell["low"] == cell["high"]:
        bounds = both(f"of {cell['replies']}", f"共 {cell['replies']} 条")  # 0–0 % would sound certain
    else:
        bounds = f"{100 * cell['low']:.0f}–{percent(cell['high'])}"
    return f'<b class="{tone}">{percent(cell["rate"])}</b> <small class="range">{bounds}</small>'


def _worst(rows: Sequence[Row], index: int | None, failure: str) -> str:
    """The question and the reply that shows the failure: not always the last of a conversation."""
    if index is None:
        return both("none", "无")
    turns = list(zip(rows[index]["asks"], spoken(rows[index]["adapter"]), strict=True))
    showing = [turn for turn in turns if any(s["metric"] in (failure, "claim", "forbidden") for s in turn[1][1])]
    ask, (text, spans) = (showing or turns)[-1]
    return f'<q class="ask">{escape(ask)}</q><br><q>{marked(text, spans)}</q>'


def spoken(reply: Row) -> list[Spoken]:
    """Every reply of a conversation with what was seen in it; the last is the judged one."""
    earlier = reply.get("replies", [reply["text"]])[:-1]
    before = reply.get("seen_before", [])
    found = [(text, [span for span in before if span["reply"] == index]) for index, text in enumerate(earlier)]
    return [*found, (reply["text"], reply["seen"])]


# --- metrics


def metric_table(metrics: Numbers) -> str:
    """Every figure of base, adapter and real lines with its interval, and the difference with its interval drawn."""
    head = ["", *(both(*label) for label in SIDES.values()), both("adapter − base, 95 %", "适配器 − 基座，95 %")]
    body = []
    for name, (english, chinese, better) in METRICS.items():
        if any(metrics[side].get(name) is not None for side in SIDES):
            difference = metrics["difference"].get(name) or {}
            sides = (_figure(metrics, side, name) for side in SIDES)
            body.append([both(english, chinese), *sides, _difference(difference, better)])
    for name, label in CONTROLS.items():
        difference = metrics["difference"].get(name) or {}
        if difference:
            body.append([both(*label), "", number(difference["estimate"]), "", _difference(difference, None)])
    return section("metrics", both("Figures", "指标"), _counts(metrics), table(head, body, "stacked compared"))


def _figure(metrics: Numbers, side: str, name: str) -> str:
    low, high = metrics["intervals"][side].get(name) or (None, None)
    bounds = f'<small class="range">{number(low)}–{number(high)}</small>' if low is not None and low != high else ""
    return number(metrics[side].get(name)) + bounds


def _difference(found: Numbers, better: bool | None) -> str:
    if found.get("estimate") is None:
        return "–"
    low, high = found["low"], found["high"]
    if low is None:
        return number(found["estimate"], "+")
    sign = 0 if low <= 0 <= high else 1 if low > 0 else -1
    tone = "" if not sign or better is None else "good" if (sign > 0) == better else "bad"
    estimate = number(found["estimate"], "+")
    words = f'<small class="range {tone}">{estimate} [{number(low, "+")}, {number(high, "+")}]</small>'
    return interval_plot(found["estimate"], low, high, tone) + words


def _counts(metrics: Numbers) -> str:
    count = metrics["counts"]
    english = (
        f"{count['test_turns']} held-out turns of the character ({count['core_turns']} core) "
        f"in {count['test_scenes']} scenes; "
        f"{count['held_out_replies']} replies to held-out contexts; {count['probe_conversations']} probe conversations."
    )
    chinese = (
        f"留出 {count['test_scenes']} 场、角色的 {count['test_turns']} 段台词（其中核心 {count['core_turns']} 段）；"
        f"对留出语境回复 {count['held_out_replies']} 条；探针对话 {count['probe_conversations']} 组。"
    )
    return f"<p>{both(english, chinese)}</p>"


def probe_table(metrics: Numbers) -> str:
    """Probes passed by kind."""
    kinds = sorted(name for name in metrics["base"] if name.startswith("probes_passed_"))
    body = [
        [
            named(KINDS, name.removeprefix("probes_passed_")),
            *(percent(metrics[side].get(name)) for side in ("base", "adapter", "adapter_chat")),
        ]
        for name in kinds
    ]
    head = [both("Probes passed", "探针通过率"), both(*SIDES["base"]), both(*SIDES["adapter"]), both(*IN_CHAT)]
    return section("probes", both("Identity probes", "身份探针"), table(head, body, "rates"))


def learning(frame: pandas.DataFrame) -> str:
    """The curves of reports/train.tsv."""
    lines = [
        (both("train loss, by step", "训练损失（按步）"), frame["step"], frame["train_loss"]),
        (
            both("validation, bits per character with the end token, by step", "验证集每字比特数，含结束符（按步）"),
            frame["step"],
            frame["validation_bits_per_character"],
        ),
    ]
    drawn = "".join(f"<figure><figcaption>{label}</figcaption>{curves(x, y)}</figure>" for label, x, y in lines)
    return section("learning", both("Learning", "学习过程"), f'<div class="figures">{drawn}</div>')


def lengths(rows: Sequence[Row]) -> str:
    """How long replies are, beside the real ones."""
    judged = [row for row in rows if row["source"] == "held_out" and row["decoding"] == "greedy"]
    drawn = []
    for side in ("real", "adapter", "base"):
        own = [row[side]["length"] for row in judged if row[side]]
        label = both(*(f"{words}, n = {len(own)}" for words in SIDES[side]))
        drawn.append(f"<figure><figcaption>{label}</figcaption>{histogram(own, LONGEST, BINS)}</figure>")
    return section(
        "lengths", both("Reply lengths, characters", "回复长度（字）"), f'<div class="figures">{"".join(drawn)}</div>'
    )


# --- the browser of replies


def browser(rows: Sequence[Row]) -> str:
    """The replies as data for the page's own search, with every label it needs."""
    shown = [
        {
            "kind": row["kind"] or "held_out",
            "decoding": row["decoding"],
            "id": row["id"],
            "context": [[m["role"], m["content"]] for m in row["context"]],
            "asks": row["asks"],
            **{side: _reply(row[side]) for side in SIDES},
        }
        for row in rows
        if row["adapter"]
    ]
    labels = {"kind": KINDS, "decoding": DECODINGS, "side": SIDES, "seen": SEEN}
    controls = (
        f'<p class="controls"><label>{both("Kind", "类别")} <select id="kind"></select></label> '
        f'<label>{both("Decoding", "解码")} <select id="decoding"></select></label> '
        f'<input id="search" type="search"> '
        f'<label><input id="seen" type="checkbox"> {both("only what a metric marked", "只看被指标标出的")}</label> '
        f'<output id="count"></output></p>'
    )
    more = f'<p><button id="more" type="button">{both("show more", "显示更多")}</button></p>'
    data = embed("rows", {"labels": labels, "rows": shown})
    return section("replies", both("Replies", "回复"), controls, '<div id="list"></div>', more, data)


def _reply(reply: Row | None) -> Row | None:
    if reply is None:
        return None
    turns = spoken(reply)
    return {
        "html": [marked(text, spans) for text, spans in turns],
        "passed": reply.get("passed"),
        "seen": sorted({span["metric"] for _, spans in turns for span in spans}),
    }


def embed(name: str, value: Any) -> str:
    """Data inside the page; `<` is escaped, so that no text can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return f'<script type="application/json" id="{name}">{text}</script>'


# --- the data's story


def story(extract: Numbers, filtered: Numbers, denoise: Numbers) -> str:
    """Lines in, kept, learned; and why the rest was left out."""
    lines = filtered["lines"]
    steps = [
        (both("messages in the script", "剧本中的消息"), extract["totals"]["messages"]),
        (both("in dialogues of the two leads", "进入两位主角对话的"), lines["used"]),
        (both("spoken in train and validation, before cleaning", "训练与验证中的台词，清洗前"), denoise["lines_in"]),
        (both("after cleaning", "清洗后"), denoise["lines_out"]),
        (both("turns of the character to learn", "要学习的角色话轮"), denoise["learned_turns_out"]),
    ]
    kinds = [(named(MESSAGE_KINDS, name), count) for name, count in extract["kinds"].items()]
    left = sorted(lines["left_out"].items(), key=lambda item: -item[1])
    counted = both("lines", "行")
    return section(
        "data",
        both("The data's story", "数据的来历"),
        bars([both("Step", "步骤"), both("count", "数量")], steps),
        bars([both("Kinds of messages", "消息种类"), counted], sorted(kinds, key=lambda kind: -kind[1])),
        bars([both("Left out by filter", "filter 略去的"), counted], [(named(LEFT_OUT, k), v) for k, v in left]),
        dialogues(filtered),
    )


def dialogues(filtered: Numbers) -> str:
    """Dialogues and turns by split, and how many turns a dialogue has."""
    turns = filtered["turns"]
    rows = [[named(SPLITS, split), str(v), str(turns[split])] for split, v in filtered["dialogues"].items()]
    counts = {int(k): v for k, v in filtered["turns_per_dialogue"].items()}
    sizes = sorted({*range(2, max(counts, default=2) + 1, 2), *counts})
    ticks = {i: str(size) for i, size in enumerate(sizes) if i % (len(sizes) // 10 + 1) == 0}
    drawn = columns([counts.get(size, 0) for size in sizes], [str(size) for size in sizes], ticks, "")
    caption = both("dialogues by their number of turns", "对话数（按话轮数）")
    head = [both("Split", "划分"), both("dialogues", "对话"), both("turns", "话轮")]
    figure = f"<figure><figcaption>{caption}</figcaption>{drawn}</figure>"
    return f'<div class="figures"><div>{table(head, rows)}</div>{figure}</div>'


def rules(denoise: Numbers, receipts: Sequence[Row]) -> str:
    """What each rule dropped or changed, with the lines before and after."""
    by_rule: defaultdict[str, list[Row]] = defaultdict(list)
    for receipt in receipts:
        by_rule[receipt["rule"]].append(receipt)
    title = both(f"Cleaning: {denoise['strategy']}", f"清洗策略：{denoise['strategy']}")
    return section("rules", title, *(rule(name, count, by_rule[name]) for name, count in denoise["rules"].items()))


def rule(name: str, count: Numbers, own: Sequence[Row]) -> str:
    """One rule: its counts, and its receipts to unfold."""
    dropped, changed = count["dropped"], count["changed"]
    words = both(f"{dropped} dropped, {changed} changed", f"丢弃 {dropped}，改动 {changed}")
    summary = f"<code>{escape(name)}</code> {words}"
    if not own:
        return f'<p class="rule">{summary}</p>'
    alike: defaultdict[tuple[str, str | None], list[Row]] = defaultdict(list)
    for receipt in own:
        alike[receipt["before"], receipt["after"]].append(receipt)
    items = "".join(f"<li>{receipts(group)}</li>" for group in list(alike.values())[:RECEIPTS_SHOWN])
    rest, where = len(alike) - RECEIPTS_SHOWN, "reports/dropped.jsonl"
    more = f"<li>{both(f'… {rest} more in {where}', f'……另有 {rest} 种，见 {where}')}</li>" if rest > 0 else ""
    return f"<details><summary>{summary}</summary><ul>{items}{more}</ul></details>"


def receipts(alike: Sequence[Row]) -> str:
    """Receipts of the same words before and after: the first one's place, and how many there are."""
    times = f" <small>×{len(alike)}</small>" if len(alike) > 1 else ""
    return f"{place(alike[0])} {diff(alike[0])}{times}"


def place(row: Row) -> str:
    """Where a line stands, and who says it."""
    return f"<small>{escape(row['file'])}:{row['line']} {escape(row.get('speaker') or '')}</small>"


def diff(receipt: Row) -> str:
    """The line before and after a rule, what went struck through and what came underlined."""
    before, after = receipt["before"], receipt["after"]
    if after is None:
        return f"<del>{escape(before)}</del>"
    if len(before) > LONGEST_DIFF:
        return f"<del>{escape(before)}</del><ins>{escape(after)}</ins>"
    out = []
    for tag, a, b, c, d in difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            out.append(escape(before[a:b]))
        else:
            out.append(f"<del>{escape(before[a:b])}</del>" * (a < b) + f"<ins>{escape(after[c:d])}</ins>" * (c < d))
    return "".join(out)


def sources(extract: Numbers, rejects: Sequence[Row]) -> str:
    """Files, cast and names to look at: what a user needs to fix the alias map."""
    odd = [f"{s['name']} ({s['lines']}) ≈ {', '.join(s['near'])}" for s in extract["suspicious"]]
    bad = [f"{r['file']}:{r['line']} {r['reason']}: {r['text'][:120]}" for r in rejects[:REJECTS_SHOWN]]
    skipped = [f"{s['file']}: {s['reason']}" for s in extract["skipped"]]
    return section(
        "sources",
        both("The script as it was read", "剧本是怎样读入的"),
        file_table(extract["files"]),
        cast_table(extract["speakers"]),
        listed(both("Perhaps the same person: see extract.aliases", "或为同一人：见 extract.aliases"), odd),
        listed(both("Lines that no rule understood", "没有规则认得的行") + f" ({len(rejects)})", bad),
        listed(both("Files left alone", "未读的文件"), skipped),
    )


def file_table(files: Sequence[Row]) -> str:
    """Format and encoding of each file, and why."""
    labels = [("File", "文件"), ("format", "格式"), ("encoding", "编码"), ("messages", "消息"), ("named", "有名字")]
    rows = [
        [
            escape(f["file"]),
            f"{escape(f['format'])} <small>{escape(f['format_why'])}</small>",
            f"{escape(f['encoding'])} <small>{escape(f['encoding_why'])}</small>",
            *(str(f[key]) for key in ("messages", "named", "rejects")),
        ]
        for f in files
    ]
    return table([both(*label) for label in (*labels, ("not understood", "未识别"))], rows, "files")


def cast_table(speakers: Sequence[Row]) -> str:
    """The speakers by lines."""
    rest = len(speakers) - CAST_SHOWN
    more = f"<p><small>{both(f'and {rest} more', f'另有 {rest} 人')}</small></p>" if rest > 0 else ""
    head = [both("Speaker", "说话人"), both("lines", "行")]
    return bars(head, [(escape(s["name"]), s["lines"]) for s in speakers[:CAST_SHOWN]]) + more


def listed(title: str, items: Sequence[str]) -> str:
    """A titled list of plain texts, or nothing."""
    return f"<h3>{title}</h3><ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def provenance(metrics: Numbers, hashes: Mapping[str, str], params: Mapping[str, Any]) -> str:
    """What the figures were made from: hashes, versions, and every parameter."""
    known = [(named(SOURCES, name), value) for name, value in metrics["provenance"].items() if value is not None]
    files = [(f"<code>{escape(name)}</code>, SHA-256", value) for name, value in hashes.items()]
    rows = [[label, f"<code>{escape(str(value))}</code>"] for label, value in (*known, *files)]
    head = [both("of", "项目"), both("value", "值")]
    title = both("Parameters, params.yaml", "参数 params.yaml")
    sections = "".join(parameters(name, values) for name, values in params.items())
    return section("provenance", both("Provenance", "出处"), table(head, rows, "long"), f"<h3>{title}</h3>", sections)


def parameters(name: str, values: Any) -> str:
    """One section of params.yaml to unfold, a row a value."""
    rows = [[f"<code>{escape(key)}</code>", f"<code>{escape(value)}</code>"] for key, value in flat(values)]
    head = [both("key", "键"), both("value", "值")]
    return f"<details><summary><code>{escape(name)}</code></summary>{table(head, rows, 'long')}</details>"


def flat(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and values, as `dvc exp run -S` names them; lists in one row."""
    if not isinstance(values, dict) or not values:
        yield prefix, json.dumps(values, ensure_ascii=False, default=str)
        return
    for key, value in values.items():
        yield from flat(value, f"{prefix}.{key}" if prefix else str(key))


# --- the page


def page(reports: dict[str, Any], template: str) -> str:
    """The whole page from everything that was read; its policy allows the template's own script alone."""
    metrics, rows = reports["metrics"], reports["replies"]
    body = [
        verdict(metrics),
        scorecard(metrics, rows),
        metric_table(metrics),
        probe_table(metrics),
        learning(reports["curves"]),
        lengths(rows),
        browser(rows),
        story(reports["extract"], reports["filter"], reports["denoise"]),
        rules(reports["denoise"], reports["dropped"]),
        sources(reports["extract"], reports["rejects"]),
        provenance(metrics, reports["hashes"], reports["params"]),
    ]
    name = metrics["provenance"]["character"]
    script = template.split("<script>")[1].split("</script>")[0]
    html = template.replace("{{script}}", b64encode(sha256(script.encode()).digest()).decode())
    html = html.replace("{{title}}", escape(f"{name} report"))
    html = html.replace("{{heading}}", both(f"{name} report", f"{name} 报告"))
    return html.replace("{{body}}", "\n".join(body))


def read_reports() -> dict[str, Any]:
    """All inputs of the page."""
    found: dict[str, Any] = {
        name: _json(REPORTS / f"{name}.json") for name in ("extract", "filter", "denoise", "metrics")
    }
    found |= {name: list(read_jsonl(REPORTS / f"{name}.jsonl")) for name in ("dropped", "rejects", "replies")}
    found["curves"] = pandas.read_csv(REPORTS / "train.tsv", sep="\t")
    found["hashes"] = {path.as_posix(): sha256(_bytes(path)).hexdigest() for path in DATA}
    found["params"] = {name: read_section(name) for name in SECTIONS}
    return found


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"expected {path}, found no such file\nhint: `dvc repro` writes it")
    return path.read_bytes()


def _json(path: Path) -> Any:
    return orjson.loads(_bytes(path))


def main() -> None:
    html = page(read_reports(), TEMPLATE.read_text(encoding="utf-8"))
    PAGE.write_text(html, encoding="utf-8", newline="\n")
    print(f"report: {PAGE} ({len(html.encode()) // 1024} KB)")


if __name__ == "__main__":
    run(main)

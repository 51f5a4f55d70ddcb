"""Everything under reports/ -> reports/report.html: one self-contained page, drawn in about a second.

It only draws: no reply is made anew, nothing is fetched, equal inputs give equal bytes. Text of the script is escaped.
"""

import difflib
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson
import pandas

from stages.charts import curves, histogram, interval_plot
from stages.cli import run
from stages.records import InputError, read_jsonl

REPORTS = Path("reports")
TEMPLATE = Path("stages/report_page.html")
PAGE = REPORTS / "report.html"
RECEIPTS_SHOWN = 40
REJECTS_SHOWN = 40
CAST_SHOWN = 40

Numbers = dict[str, Any]
Row = dict[str, Any]

FAILURES = {
    "swearing": ("Swearing", "说脏话"),
    "weapon": ("“A weapon”", "自称兵器"),
    "language": ("Language drift", "语言漂移"),
    "hardware": ("“A graphics card”", "自称显卡"),
    "filler": ("Endless filler", "嗯……没完没了"),
    "role": ("Out of role", "跳出角色"),
}

# name in metrics.json -> label, Chinese label, whether more is better (None: should be near the real lines)
METRICS: dict[str, tuple[str, str, bool | None]] = {
    "bits_per_character": ("Bits per character, test", "每字比特数（测试）", False),
    "bits_per_character_core": ("… on turns that no cleaning rule touches", "……任何清洗规则都不碰的台词", False),
    "bits_per_character_validation": ("Bits per character, validation", "每字比特数（验证）", False),
    "bits_per_character_train": ("Bits per character, train sample", "每字比特数（训练样本）", False),
    "rank_hits_1": ("Real reply ranked first of ten", "真实回复在十句中排第一", True),
    "rank_mrr": ("… mean reciprocal rank", "……平均倒数排名", True),
    "voice": ("Voice (0: base model, 1: real lines)", "声音（0 为基座，1 为真实台词）", True),
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
    "self_bleu": ("Self-BLEU", "Self-BLEU", None),
    "copied_20_rate": ("20 characters or more copied from training", "照抄训练文本 20 字以上", None),
}

CONTROLS = {
    "specificity": ("Specificity: gained on her turns beyond his", "特异性：她的台词比他的多学到多少"),
    "context_gain": ("True context over a shuffled one, adapter", "真实语境优于打乱语境（适配器）"),
    "context_gain_over_base": ("… beyond what the base gains from it", "……比基座多出的部分"),
    "generalisation_gap": ("Generalisation gap: test minus train", "泛化差距：测试减训练"),
}


# --- pieces of HTML


def both(english: str, chinese: str) -> str:
    """A label in both languages; the page shows one."""
    return f'<span class="en">{escape(english)}</span><span class="zh" lang="zh">{escape(chinese)}</span>'


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of ready cells that scrolls sideways on a phone."""
    cells = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>'


def section(name: str, title: str, *parts: str) -> str:
    """One section of the page."""
    return f'<section id="{name}"><h2>{title}</h2>{"".join(parts)}</section>'


def number(value: float | None, digits: int = 2) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


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
    """What the intervals allow to be said, in a sentence."""
    fit = metrics["difference"]["bits_per_character_core"]
    specific = metrics["difference"].get("specificity", {})
    listens = metrics["difference"].get("context_gain", {})
    if fit["high"] < 0:
        first = f"The adapter fits her better than the base: {-fit['estimate']:.2f} bits per character fewer."
        first_zh = f"适配器比基座更贴近她：每字少 {-fit['estimate']:.2f} 比特。"
    elif fit["low"] > 0:
        first, first_zh = "The adapter fits her worse than the base.", "适配器比基座更不像她。"
    else:
        first = f"No difference from the base is shown (a smaller one than {fit['detectable']:.2f} bits would not be)."
        first_zh = f"看不出与基座的差别（小于 {fit['detectable']:.2f} 比特的差别无法显示）。"
    own = _shown(
        specific, "The gain is her own voice", "It is not shown that the gain is her own voice rather than script text"
    )
    own_zh = _shown(specific, "学到的是她自己的声音", "尚不能证明学到的是她的声音，而不只是剧本文字")
    context = _shown(listens, "she listens to the context.", "it is not shown that she listens to the context.")
    context_zh = _shown(listens, "她会听上文。", "尚不能证明她会听上文。")
    return f'<p class="verdict">{both(f"{first} {own}; {context}", f"{first_zh}{own_zh}；{context_zh}")}</p>'


def _shown(of: Numbers, yes: str, no: str) -> str:
    return yes if of.get("low") is not None and of["low"] > 0 else no


def scorecard(metrics: Numbers, rows: Sequence[Row]) -> str:
    """The six known failures of base, adapter and real lines, each with the adapter's worst reply."""
    head = [
        both("Failure", "毛病"),
        both("base", "基座"),
        both("adapter", "适配器"),
        both("adapter, as in chat", "适配器（聊天设置）"),
        both("real lines", "真实台词"),
        both("worst reply of the adapter", "适配器最糟的回复"),
    ]
    body = []
    for name, label in FAILURES.items():
        card = metrics["scorecard"][name]
        cells = [card["greedy"]["base"], card["greedy"]["adapter"], card.get("chat", {}).get("adapter"), card["real"]]
        worst = next((c["worst"] for c in cells[1:3] if c and c["worst"] is not None), None)
        body.append([both(*label), *(_rate(cell) for cell in cells), _worst(rows, worst)])
    note = both(
        "Rates over held-out turns and the probes that provoke the failure, with 95 % intervals over scenes.",
        "在留出台词与相应探针上的比例，方括号内为按场景自助法的 95 % 区间。",
    )
    return section("scorecard", both("The six known failures", "六种已知的毛病"), f"<p>{note}</p>", table(head, body))


def _rate(cell: Numbers | None) -> str:
    if not cell or cell["rate"] is None:
        return "–"
    tone = "good" if cell["rate"] == 0 else "bad" if cell["rate"] > 0.1 else "fair"
    bounds = f"{100 * cell['low']:.0f}–{percent(cell['high'])}"
    return f'<b class="{tone}">{percent(cell["rate"])}</b> <small class="range">{bounds}</small>'


def _worst(rows: Sequence[Row], index: int | None) -> str:
    if index is None:
        return both("none", "无")
    row = rows[index]
    reply = row["adapter"]
    return f'<q class="ask">{escape(row["asks"][-1])}</q><br><q>{marked(reply["text"], reply["seen"])}</q>'


# --- metrics


def metric_table(metrics: Numbers) -> str:
    """Every figure of base, adapter and real lines, and the difference with its interval drawn."""
    head = [
        "",
        both("base", "基座"),
        both("adapter", "适配器"),
        both("real lines", "真实台词"),
        both("adapter − base, 95 %", "适配器 − 基座，95 %"),
    ]
    body = []
    for name, (english, chinese, better) in METRICS.items():
        values = [metrics[side].get(name) for side in ("base", "adapter", "real")]
        if any(value is not None for value in values):
            difference = metrics["difference"].get(name) or {}
            body.append([both(english, chinese), *(number(value) for value in values), _difference(difference, better)])
    for name, label in CONTROLS.items():
        difference = metrics["difference"].get(name) or {}
        if difference:
            body.append([both(*label), "", number(difference["estimate"]), "", _difference(difference, None)])
    return section("metrics", both("Figures", "数据"), _counts(metrics), table(head, body))


def _difference(found: Numbers, better: bool | None) -> str:
    if found.get("estimate") is None:
        return "–"
    low, high = found["low"], found["high"]
    sign = 0 if low <= 0 <= high else 1 if low > 0 else -1
    tone = "" if not sign or better is None else "good" if (sign > 0) == better else "bad"
    words = f'<small class="range {tone}">{found["estimate"]:+.2f} [{low:+.2f}, {high:+.2f}]</small>'
    return interval_plot(found["estimate"], low, high, tone) + words


def _counts(metrics: Numbers) -> str:
    count = metrics["counts"]
    english = (
        f"{count['test_turns']} held-out turns of hers ({count['core_turns']} core) in {count['test_scenes']} scenes; "
        f"{count['held_out_replies']} replies to held-out contexts; {count['probe_conversations']} probe conversations."
    )
    chinese = (
        f"留出 {count['test_scenes']} 场、她的 {count['test_turns']} 段台词（其中核心 {count['core_turns']} 段）；"
        f"对留出语境回复 {count['held_out_replies']} 条；探针对话 {count['probe_conversations']} 组。"
    )
    return f"<p>{both(english, chinese)}</p>"


def probe_table(metrics: Numbers) -> str:
    """Probes passed by kind."""
    kinds = sorted(name for name in metrics["base"] if name.startswith("probes_passed_"))
    body = [
        [
            escape(name.removeprefix("probes_passed_")),
            *(percent(metrics[side].get(name)) for side in ("base", "adapter", "adapter_chat")),
        ]
        for name in kinds
    ]
    head = [
        both("Probes passed", "探针通过率"),
        both("base", "基座"),
        both("adapter", "适配器"),
        both("adapter, as in chat", "适配器（聊天设置）"),
    ]
    return section("probes", both("Identity probes", "身份探针"), table(head, body))


def learning(frame: pandas.DataFrame) -> str:
    """The curves of reports/train.tsv."""
    lines = [
        (both("train loss", "训练损失"), frame["step"], frame["train_loss"]),
        (
            both("validation, bits per character", "验证，每字比特数"),
            frame["step"],
            frame["validation_bits_per_character"],
        ),
    ]
    drawn = "".join(f"<figure><figcaption>{label}</figcaption>{curves(x, y)}</figure>" for label, x, y in lines)
    return section("learning", both("Learning", "学习过程"), f'<div class="figures">{drawn}</div>')


def lengths(rows: Sequence[Row]) -> str:
    """How long replies are, beside the real ones."""
    drawn = []
    for side, label in (
        ("real", ("real lines", "真实台词")),
        ("adapter", ("adapter", "适配器")),
        ("base", ("base", "基座")),
    ):
        own = [
            row[side]["length"]
            for row in rows
            if row["source"] == "held_out" and row["decoding"] == "greedy" and row[side]
        ]
        drawn.append(f"<figure><figcaption>{both(*label)}</figcaption>{histogram(own, 60, 20)}</figure>")
    return section(
        "lengths", both("Reply lengths, characters", "回复长度（字）"), f'<div class="figures">{"".join(drawn)}</div>'
    )


# --- the browser of replies


def browser(rows: Sequence[Row]) -> str:
    """The replies as data for the page's own search."""
    shown = [
        {
            "kind": row["kind"] or "held_out",
            "decoding": row["decoding"],
            "id": row["id"],
            "said": [*(f"{m['role']}: {m['content']}" for m in row["context"]), *_asked(row)],
            **{side: _reply(row[side]) for side in ("base", "adapter", "real")},
        }
        for row in rows
        if row["adapter"]
    ]
    controls = (
        f'<p class="controls"><label>{both("Kind", "类别")} <select id="kind"></select></label> '
        f'<label>{both("Decoding", "解码")} <select id="decoding"></select></label> '
        f'<input id="search" type="search" placeholder="搜索 / search" aria-label="search"> '
        f'<label><input id="seen" type="checkbox"> {both("only what a metric marked", "只看被指标标出的")}</label> '
        f'<output id="count"></output></p>'
    )
    return section("replies", both("Replies", "回复"), controls, '<div id="list"></div>', embed("rows", shown))


def _asked(row: Row) -> list[str]:
    """The turns of a conversation up to the judged reply, the adapter's own answers between them."""
    between = row["adapter"]["replies"][:-1]
    lines = []
    for index, ask in enumerate(row["asks"]):
        lines.append(f"user: {ask}")
        if index < len(between):
            lines.append(f"adapter: {between[index]}")
    return lines


def _reply(reply: Row | None) -> Row | None:
    return reply and {
        "html": marked(reply["text"], reply["seen"]),
        "passed": reply.get("passed"),
        "seen": bool(reply["seen"]),
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
    lines, reasons = filtered["lines"], filtered["lines"]["left_out"]
    steps = [
        (both("messages in the script", "剧本中的消息"), extract["totals"]["messages"]),
        (both("in dialogues of the two leads", "进入两位主角对话的"), lines["used"]),
        (both("train and validation lines before cleaning", "清洗前的训练与验证台词"), denoise["lines_in"]),
        (both("after cleaning", "清洗后"), denoise["lines_out"]),
        (both("turns of hers that are learned", "学习的她的话轮"), denoise["learned_turns_out"]),
    ]
    flow = table([both("Step", "步骤"), both("count", "数量")], [[label, str(count)] for label, count in steps])
    left = table(
        [both("Left out by filter", "filter 略去的"), both("lines", "行")],
        [[escape(k), str(v)] for k, v in reasons.items()],
    )
    turns = table(
        [both("Turns per dialogue", "每段对话的话轮数"), both("dialogues", "对话数")],
        [[escape(k), str(v)] for k, v in filtered["turns_per_dialogue"].items()],
    )
    split = " · ".join(f"{name} {count}" for name, count in filtered["dialogues"].items())
    return section(
        "data",
        both("The data's story", "数据的来历"),
        flow,
        f"<p>{both('dialogues', '对话')}: {split}</p>",
        left,
        turns,
    )


def rules(denoise: Numbers, receipts: Sequence[Row]) -> str:
    """What each rule dropped or changed, with the lines before and after."""
    by_rule: defaultdict[str, list[Row]] = defaultdict(list)
    for receipt in receipts:
        by_rule[receipt["rule"]].append(receipt)
    title = both(f"Cleaning: {denoise['strategy']}", f"清洗策略：{denoise['strategy']}")
    return section("rules", title, *(rule(name, count, by_rule[name]) for name, count in denoise["rules"].items()))


def rule(name: str, count: Numbers, own: Sequence[Row]) -> str:
    """One rule: its counts, and its receipts to unfold."""
    dropped, changed = count["lines_in"] - count["lines_out"], count["changed"]
    words = both(f"{dropped} dropped, {changed} changed", f"丢弃 {dropped}，改动 {changed}")
    summary = f"<code>{escape(name)}</code> {words}"
    if not own:
        return f'<p class="rule">{summary}</p>'
    items = "".join(f"<li>{place(r)} {diff(r)}</li>" for r in own[:RECEIPTS_SHOWN])
    rest = len(own) - RECEIPTS_SHOWN
    more = f"<li>… {rest} more in reports/dropped.jsonl</li>" if rest > 0 else ""
    return f"<details><summary>{summary}</summary><ul>{items}{more}</ul></details>"


def place(row: Row) -> str:
    """Where a line stands, and who says it."""
    return f"<small>{escape(row['file'])}:{row['line']} {escape(row.get('speaker') or '')}</small>"


def diff(receipt: Row) -> str:
    """The line before and after a rule, what went struck through and what came underlined."""
    before, after = receipt["before"], receipt["after"]
    if after is None:
        return f"<del>{escape(before)}</del>"
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
    return table([both(*label) for label in (*labels, ("not understood", "未识别"))], rows)


def cast_table(speakers: Sequence[Row]) -> str:
    """The speakers by lines."""
    rows = [[escape(s["name"]), str(s["lines"])] for s in speakers[:CAST_SHOWN]]
    return table([both("Speaker", "说话人"), both("lines", "行")], rows)


def listed(title: str, items: Sequence[str]) -> str:
    """A titled list of plain texts, or nothing."""
    return f"<h3>{title}</h3><ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""


def provenance(metrics: Numbers) -> str:
    """What the figures were made from."""
    rows = [[escape(name), f"<code>{escape(str(value))}</code>"] for name, value in metrics["provenance"].items()]
    return section("provenance", both("Provenance", "出处"), table([both("of", "项目"), both("value", "值")], rows))


# --- the page


def page(reports: dict[str, Any], template: str) -> str:
    """The whole page from everything that was read."""
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
        provenance(metrics),
    ]
    name = metrics["provenance"].get("character", "")
    return template.replace("{{title}}", escape(f"{name} report".strip())).replace("{{body}}", "\n".join(body))


def read_reports() -> dict[str, Any]:
    """All inputs of the page."""
    found: dict[str, Any] = {
        name: _json(REPORTS / f"{name}.json") for name in ("extract", "filter", "denoise", "metrics")
    }
    found |= {name: list(read_jsonl(REPORTS / f"{name}.jsonl")) for name in ("dropped", "rejects", "replies")}
    found["curves"] = pandas.read_csv(REPORTS / "train.tsv", sep="\t")
    return found


def _json(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"expected {path}, found no such file\nhint: `dvc repro` writes it")
    return orjson.loads(path.read_bytes())


def main() -> None:
    html = page(read_reports(), TEMPLATE.read_text(encoding="utf-8"))
    PAGE.write_text(html, encoding="utf-8", newline="\n")
    print(f"report: {PAGE} ({len(html.encode()) // 1024} KB)")


if __name__ == "__main__":
    run(main)

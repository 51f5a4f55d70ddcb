"""The tables of figures and replies in the READMEs, from reports/: python -m tests.readme_figures"""

import json
from pathlib import Path
from typing import Any

from stages.records import read_jsonl
from stages.replies import spread

REPORTS = Path("reports")
ROWS = {  # name in metrics.json -> label, Chinese label, digits
    "bits_per_character": ("bits per character, held-out turns", "每字比特数（留出台词）", 2),
    "bits_per_character_core": (
        "… core turns (untouched by rules on form, filler, language)",
        "……核心台词（形式、填充语、语言的规则都不碰的）",
        2,
    ),
    "rank_hits_1": ("real reply ranked first of ten", "真实回复在十句中排第一", 2),
    "voice": ("voice (0: base, 1: real lines)", "口吻（0 为基座，1 为真实台词）", 2),
    "probes_passed": ("probes passed", "通过的探针", 2),
    "forced_choice": ("right self-description preferred", "更倾向正确的自我描述", 2),
    "loop_rate": ("replies that loop", "陷入循环的回复", 2),
    "language_drift_rate": ("replies in another language", "换了语言的回复", 2),
    "length_median": ("median length, characters", "长度中位数（字）", 0),
    "distinct_2": ("distinct bigrams", "不重复二元组比例", 2),
}
CONTROLS = {
    "specificity": ("specificity (gain on her turns beyond his)", "特异性（她的台词比他的多学到的）"),
    "context_gain": ("true context over shuffled", "真实语境优于打乱语境"),
}
CUT = 60  # characters of a quoted text
HEADS = (
    ("", "base", "adapter", "real lines", "adapter − base, 95 %"),
    ("", "基座", "适配器", "真实台词", "适配器 − 基座，95 %"),
)


def figures(metrics: dict[str, Any], chinese: bool) -> str:
    """The Markdown table."""
    head = HEADS[chinese]
    lines = [row(head), row(["---"] * len(head))]
    for name, (*labels, digits) in ROWS.items():
        values = [number(metrics[side].get(name), digits) for side in ("base", "adapter", "real")]
        lines.append(row([labels[chinese], *values, interval(metrics["difference"].get(name))]))
    for name, labels in CONTROLS.items():
        lines.append(row([labels[chinese], "", "", "", interval(metrics["difference"][name])]))
    return "\n".join(lines)


def quotes(rows: list[dict[str, Any]], chinese: bool) -> str:
    """Replies of both models under chat's own decoding: five held-out turns and five probes, evenly spread."""
    chat = [one for one in rows if one["decoding"] == "chat"]
    chosen = [one for source in ("held_out", "probe") for one in spread([r for r in chat if r["source"] == source], 5)]
    head = ("用户", "基座", "适配器") if chinese else ("user", "base", "adapter")
    cells = [[one["asks"][-1], one["base"]["text"], one["adapter"]["text"]] for one in chosen]
    return "\n".join([row(head), row(["---"] * 3), *(row(map(flat, each)) for each in cells)])


def flat(text: str) -> str:
    """One line of a table."""
    line = " / ".join(part for part in text.replace("|", "\\|").splitlines() if part.strip())
    return line if len(line) <= CUT else f"{line[:CUT]} …"


def row(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


def number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def interval(found: dict[str, float] | None) -> str:
    return f"{found['estimate']:+.2f} [{found['low']:+.2f}, {found['high']:+.2f}]" if found else "–"


if __name__ == "__main__":
    replies = list(read_jsonl(REPORTS / "replies.jsonl"))
    for language in (False, True):
        metrics = json.loads((REPORTS / "metrics.json").read_text(encoding="utf-8"))
        print(figures(metrics, language), quotes(replies, language), sep="\n\n", end="\n\n")

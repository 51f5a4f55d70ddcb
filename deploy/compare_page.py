"""The table of a comparison in, one self-contained page out: no script, nothing loaded."""

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from deploy.paired import Difference

WIDTH, LABEL, LINE = 720, 190, 34
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222;
       background: #fff; }
div { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; }
th, td { padding: .35rem .6rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:last-child { text-align: left; }
svg { width: 100%; max-width: 760px; height: auto; } svg text { font-size: 13px; fill: currentColor; }
line { stroke: currentColor; } .zero { stroke-dasharray: 3 3; opacity: .5; } .control { opacity: .55; }
.verdict { font-size: 1.1rem; border-left: 4px solid #47a; padding-left: .8rem; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; } th, td { border-color: #444; } }
"""
NOTES = """
<p>Bits per character, lower is better. <b>core</b>: validation turns that no rule on form, filler or language would
touch, the same ones for every setting; the choice is made on them. <b>all</b>: all validation turns. Differences
stand with their 95 % interval (over trainings and scenes, as wide as so few of them ask: Student's t) and with Holm's p
over all differences of the table. A gain counts only if it is also one over the control, which drops as many lines at
random. Voice, ranking and failure rates are of the replies to the test split: they warn, they do not choose.</p>
"""


def write_page(path: Path, rows: Sequence[Any], frame: pd.DataFrame, conclusion: str, seeds: int) -> None:
    """Write the page; `rows` are those of the frame, unformatted."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(rows, frame, conclusion, seeds), encoding="utf-8")


def page(rows: Sequence[Any], frame: pd.DataFrame, conclusion: str, seeds: int) -> str:
    """The page's HTML."""
    smallest = [row.against_baseline.detectable for row in rows if row.against_baseline]
    detectable = f"Smallest difference that would show in 80 % of cases: {max(smallest):.3f}." if smallest else ""
    return (
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Comparison</title><style>{STYLE}</style><body><h1>Comparison</h1>"
        f'<p class="verdict">{escape(conclusion)}</p><p>{seeds} paired trainings each. {detectable}</p>'
        f"{forest(rows)}<div>{frame.reset_index().to_html(index=False, border=0)}</div>{NOTES}</body></html>\n"
    )


def forest(rows: Sequence[Any]) -> str:
    """Every setting's difference from the baseline, and from its control below it in grey."""
    gaps = [(row.name, gap, kind) for row in rows for kind, gap in gaps_of(row)]
    if not gaps:
        return ""
    reach = max(max(abs(gap.low), abs(gap.high)) for _, gap, _ in gaps) * 1.1 or 1.0
    height = LINE * len(gaps) + 30
    middle = LABEL + (WIDTH - LABEL) / 2
    lines = "".join(whisker(i, *one, reach) for i, one in enumerate(gaps))
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="differences with intervals">'
        f'<line class="zero" x1="{middle}" x2="{middle}" y1="0" y2="{height - 20}"/>{lines}'
        f'<text x="{LABEL}" y="{height - 4}">better</text>'
        f'<text x="{WIDTH}" y="{height - 4}" text-anchor="end">worse</text></svg>'
    )


def gaps_of(row: Any) -> list[tuple[str, Difference]]:
    """The differences a row has, each under the name of its kind."""
    both = (("baseline", row.against_baseline), ("control", row.against_control))
    return [(kind, gap) for kind, gap in both if gap]


def whisker(index: int, name: str, gap: Difference, kind: str, reach: float) -> str:
    """One line of the forest: the interval, its estimate, the smallest detectable difference as a tooltip."""
    y = LINE * index + 18
    low, at, high = (LABEL + (WIDTH - LABEL) * (1 + value / reach) / 2 for value in (gap.low, gap.estimate, gap.high))
    words = f"{gap.estimate:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}], detectable {gap.detectable:.4f}"
    label = name if kind == "baseline" else "… against its control"
    return (
        f'<g class="{kind}"><title>{escape(words)}</title><text x="0" y="{y + 4}">{escape(label)}</text>'
        f'<line x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/><circle cx="{at:.1f}" cy="{y}" r="4"/></g>'
    )

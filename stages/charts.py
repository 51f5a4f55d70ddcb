"""Numbers in, inline SVG out: small pictures without a script, in the page's own colours."""

from collections.abc import Callable, Mapping, Sequence

WIDTH, NARROW, HEIGHT, EDGE = 420, 300, 180, 42


def interval_plot(estimate: float, low: float, high: float, tone: str) -> str:
    """A line for the interval, a dot for the estimate, a tick for zero."""
    reach = max(abs(low), abs(high), 1e-9) * 1.15

    def at(value: float) -> str:
        return f"{60 + 56 * value / reach:.1f}"

    return (
        f'<svg class="interval {tone}" viewBox="0 0 120 14" role="img" aria-label="{estimate:+.3f}">'
        f'<line class="zero" x1="60" x2="60" y1="1" y2="13"/><line x1="{at(low)}" x2="{at(high)}" y1="7" y2="7"/>'
        f'<circle cx="{at(estimate)}" cy="7" r="3"/></svg>'
    )


def curves(x: Sequence[float], y: Sequence[float]) -> str:
    """One curve over its axes; points without a value are left out."""
    points = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if b == b]
    if not points:
        return "<p>–</p>"
    xs, ys = zip(*points, strict=True)
    right, floor = WIDTH - 8, HEIGHT - 24
    place_x, place_y = _scale(min(xs), max(xs), EDGE, right), _scale(min(ys), max(ys), floor - 6, 10)
    path = " ".join(f"{place_x(a):.1f},{place_y(b):.1f}" for a, b in points)
    dots = "".join(
        f'<circle cx="{place_x(a):.1f}" cy="{place_y(b):.1f}" r="2.4"><title>{a:g}: {b:.3f}</title></circle>'
        for a, b in points
    )
    middle = (min(ys) + max(ys)) / 2
    levels = sorted({min(ys), middle, max(ys)})
    grid = "".join(f'<line x1="{EDGE}" x2="{right}" y1="{place_y(v):.1f}" y2="{place_y(v):.1f}"/>' for v in levels)
    labels = "".join(text(EDGE - 6, place_y(value) + 4, f"{value:.2f}", "end") for value in levels)
    labels += text(EDGE, HEIGHT - 4, f"{min(xs):g}") + text(right, HEIGHT - 4, f"{max(xs):g}", "end")
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{grid}<polyline points="{path}"/>'
        f"{dots}{labels}</svg>"
    )


def histogram(values: Sequence[float], top: int, bins: int) -> str:
    """Shares of values from 0 to `top`, in per cent; what is larger stands in the last bar."""
    counts = [0] * bins
    for value in values:
        counts[min(int(value * bins / top), bins - 1)] += 1
    starts = [index * top // bins for index in range(bins)]
    names = [f"{start}–{start + top // bins - 1}" for start in starts[:-1]] + [f"{starts[-1]}+"]
    ticks = {0: "0", bins // 3: f"{top // 3}", 2 * bins // 3: f"{2 * top // 3}", bins - 1: f"{starts[-1]}+"}
    total = len(values) or 1
    return columns([100 * count / total for count in counts], names, ticks, " %")


def columns(heights: Sequence[float], names: Sequence[str], ticks: Mapping[int, str], unit: str) -> str:
    """Upright bars; `names` are told on hovering, `ticks` (bar -> words) stand below, the tallest is written out."""
    tallest, width, floor = max(heights, default=0) or 1, (NARROW - EDGE - 8) / max(len(heights), 1), HEIGHT - 24
    reach = floor - 22
    bars = "".join(
        f'<rect x="{EDGE + i * width:.1f}" y="{floor - reach * height / tallest:.1f}" width="{width * 0.86:.1f}" '
        f'height="{reach * height / tallest:.1f}"><title>{names[i]}: {height:.0f}{unit}</title></rect>'
        for i, height in enumerate(heights)
    )
    labels = "".join(text(EDGE + (i + 0.43) * width, HEIGHT - 4, words, "middle") for i, words in ticks.items())
    labels += text(EDGE - 6, floor, "0", "end") + text(EDGE - 6, 26, f"{tallest:.0f}{unit}".replace(" ", ""), "end")
    grid = "".join(f'<line x1="{EDGE}" x2="{NARROW - 8}" y1="{y}" y2="{y}"/>' for y in (22, floor))
    return f'<svg class="chart" viewBox="0 0 {NARROW} {HEIGHT}" role="img">{grid}{bars}{labels}</svg>'


def bar(share: float) -> str:
    """A lying bar for a table's cell, `share` of its full length."""
    return (
        f'<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect width="{100 * share:.1f}" height="8"/></svg>'
    )


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """A label."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)

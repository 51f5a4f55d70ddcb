"""Numbers in, inline SVG out: small pictures without a script, in the page's own colours."""

from collections.abc import Callable, Sequence

WIDTH, HEIGHT, EDGE = 420, 180, 34


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
    """One curve; points without a value are left out."""
    points = [(float(a), float(b)) for a, b in zip(x, y, strict=True) if b == b]
    if not points:
        return "<p>–</p>"
    xs, ys = zip(*points, strict=True)
    place_x, place_y = _scale(min(xs), max(xs), EDGE, WIDTH - 8), _scale(min(ys), max(ys), HEIGHT - 22, 8)
    path = " ".join(f"{place_x(a):.1f},{place_y(b):.1f}" for a, b in points)
    dots = "".join(
        f'<circle cx="{place_x(a):.1f}" cy="{place_y(b):.1f}" r="2.4"><title>{a:g}: {b:.3f}</title></circle>'
        for a, b in points
    )
    labels = text(2, 14, f"{max(ys):.2f}") + text(2, HEIGHT - 22, f"{min(ys):.2f}")
    labels += text(EDGE, HEIGHT - 4, f"{min(xs):g}") + text(WIDTH - 8, HEIGHT - 4, f"{max(xs):g}", "end")
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"><polyline points="{path}"/>{dots}{labels}</svg>'
    )


def histogram(values: Sequence[float], top: int, bins: int) -> str:
    """Counts of values from 0 to `top`; what is larger stands in the last bar."""
    counts = [0] * bins
    for value in values:
        counts[min(int(value * bins / top), bins - 1)] += 1
    tallest, width = max(counts) or 1, (WIDTH - 16) / bins
    bars = "".join(
        f'<rect x="{8 + i * width:.1f}" y="{(HEIGHT - 22) - 140 * count / tallest:.1f}" width="{width - 2:.1f}" '
        f'height="{140 * count / tallest:.1f}"><title>{i * top // bins}–{(i + 1) * top // bins}: {count}</title></rect>'
        for i, count in enumerate(counts)
    )
    labels = text(8, HEIGHT - 4, "0") + text(WIDTH - 8, HEIGHT - 4, f"{top}+", "end")
    return f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{bars}{labels}</svg>'


def text(x: float, y: float, words: str, anchor: str = "start") -> str:
    """A label."""
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{words}</text>'


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)

"""A reply in, the six failures this system is known for out: each with the places that show it.

A detector is `str -> list of spans`; what is a weapon or a graphics card the work's probes say.
"""

from collections.abc import Callable, Collection, Iterable, Sequence

from stages.languages import drift_spans, home, shares, traditional_share
from stages.metrics import filler_spans, loop_spans
from stages.probes import Probe, asserted, found
from stages.swearing import swear_spans

Span = tuple[int, int]
Detector = Callable[[str], list[Span]]

FAILURES = ("swearing", "weapon", "language", "hardware", "filler", "role")
SIMPLIFIED = 0.005  # of her Chinese characters: a script with fewer Traditional ones is Simplified


def make_detectors(her_lines: Sequence[str], probes: Iterable[Probe], allowed: Collection[str]) -> dict[str, Detector]:
    """The six detectors for one work; raw train lines say what her language is."""
    probes = list(probes)
    at_home = home(shares(her_lines))
    simplified = traditional_share(her_lines) < SIMPLIFIED
    table: dict[str, Detector] = {
        "swearing": lambda text: swear_spans(text, allowed),
        "language": lambda text: drift_spans(text, at_home, simplified),
        "filler": lambda text: sorted({*loop_spans(text), *filler_spans(text)}),
        **{kind: claims([probe for probe in probes if probe.kind == kind]) for kind in ("weapon", "hardware", "role")},
    }
    return {name: table[name] for name in FAILURES}


def claims(probes: Sequence[Probe]) -> Detector:
    """What any of the probes denies or forbids, wherever it is said."""

    def spans(text: str) -> list[Span]:
        denied = [span for probe in probes if probe.expect == "deny" for span in asserted(probe.claim, text)]
        return sorted({*denied, *(span for probe in probes for span in found(probe.forbid, text))})

    return spans

"""Raw train lines by speaker in, a classifier of who speaks out: she, he, or anybody else.

Character 1-4-gram TF-IDF and a logistic regression; names are masked, so that it hears how and not whom. Lengths are
balanced, so that it does not hear who speaks briefly.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import regex
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

HER, HIM, OTHERS = "her", "him", "others"
MASK = "〇"
BUCKETS = (4, 8, 16, 32)
NAME = regex.compile(r"\p{L}{2,}")


@dataclass(frozen=True)
class Voice:
    """A trained classifier; `names` is the pattern of what it masks."""

    names: regex.Pattern
    vectoriser: TfidfVectorizer
    model: LogisticRegression

    def her_share(self, texts: Sequence[str]) -> list[float]:
        """P(her) of each text; an empty text is nobody's and gets 0."""
        if not texts:
            return []
        masked = [self.names.sub(MASK, text) for text in texts]
        column = list(self.model.classes_).index(HER)
        shares = self.model.predict_proba(self.vectoriser.transform(masked))[:, column]
        return [float(share) if text.strip() else 0.0 for share, text in zip(shares, texts, strict=True)]


def train_voice(lines: Iterable[tuple[str, str]], character: str, partner: str) -> Voice | None:
    """A classifier of `(speaker, text)` lines, or None where only one of the leads speaks."""
    lines = [(speaker, text) for speaker, text in lines if text.strip()]
    role = {character: HER, partner: HIM}
    labels = [role.get(speaker, OTHERS) for speaker, _ in lines]
    if not {HER, HIM} <= set(labels):
        return None
    pattern = name_pattern([character, partner, *(speaker for speaker, _ in lines)])
    texts = [pattern.sub(MASK, text) for _, text in lines]
    vectoriser = TfidfVectorizer(analyzer="char", ngram_range=(1, 4), min_df=2, sublinear_tf=True, lowercase=False)
    model = LogisticRegression(C=10.0, max_iter=1000)
    model.fit(vectoriser.fit_transform(texts), labels, sample_weight=balance(labels, [len(text) for text in texts]))
    return Voice(pattern, vectoriser, model)


def name_pattern(names: Iterable[str]) -> regex.Pattern:
    """Any of the names that are words, the longest first."""
    words = sorted({name for name in names if NAME.fullmatch(name)}, key=lambda name: (-len(name), name))
    return regex.compile("|".join(map(regex.escape, words)) or r"(?!)")


def balance(labels: Sequence[str], lengths: Sequence[int]) -> np.ndarray:
    """Weights that give every class the same total within each bucket of lengths; they average 1."""
    keys = [(bucket(length), label) for label, length in zip(labels, lengths, strict=True)]
    cells, buckets = Counter(keys), Counter(key[0] for key in keys)
    classes = Counter(key[0] for key in cells)
    return np.array([buckets[key[0]] / (classes[key[0]] * cells[key]) for key in keys])


def bucket(length: int) -> int:
    """Which of five classes of length: up to 4, 8, 16, 32 characters, or more."""
    return sum(length > limit for limit in BUCKETS)


def auc(voice: Voice, hers: Sequence[str], his: Sequence[str]) -> float | None:
    """How well P(her) tells her held-out lines from his: 1 always, 0.5 by chance."""
    if not hers or not his:
        return None
    truth = [1] * len(hers) + [0] * len(his)
    return float(roc_auc_score(truth, voice.her_share([*hers, *his])))


def likeness(reply: float | None, base: float | None, real: float | None) -> float | None:
    """(P(reply) - P(base)) / (P(real) - P(base)): 0 speaks like the base model, 1 like her."""
    if reply is None or base is None or real is None or abs(real - base) < 0.02:
        return None
    return (reply - base) / (real - base)

"""The work's probes in, verdicts on replies out.

A claim is a pattern: `affirm` must assert it, `deny` must not, `free` is judged by `forbid` alone. 我不是显卡 denies:
a negation word, at most three characters without punctuation, then the match. And where a question puts to her what she
is to deny, 你是显卡吧？, a bare yes says it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import regex

from stages.records import InputError

KINDS = ("swearing", "weapon", "hardware", "language", "filler", "role", "identity", "name", "lore")
EXPECTED = ("affirm", "deny", "free")
REACH = 3
NEGATION = (
    r"(?:(?<!不得|要|是|好|对|差)不(?!得不|愧|仅|但|光|只|过|错|瞒|骗|好意思|久|时)|没有|没(?!错|准|关系|事)|并非|绝非|(?<!莫|除|无)非(?!常|得)|"
    r"(?<![特区分级性辨])别(?!人|的|处|样)|哪(?:里|儿)?(?=会|能|是|像|$)|怎么(?:会|可能|能)|才怪|毫无|从未|未曾|否认|"
    r"如果|假如|要是|什么(?=$)|什么叫|(?i:\bnot\b|n['’]t\b|\bnever\b|\bno\b))"
)
APART = r"[^\p{P}\p{S}\n]"
SAYS = r"(?:承认|觉得|认为|相信|说过?|记得)"  # 我不觉得自己是兵器: a verb between lets the negation reach further
NEGATED_BEFORE = regex.compile(rf"{NEGATION}(?:{APART}{{0,{REACH}}}|{APART}{{0,2}}{SAYS}{APART}{{0,4}})$")
NEGATED_AFTER = regex.compile(rf"^(?:{APART}{{0,2}}(?:では|じゃ|で)(?:ない|ありません|なく)|[都也可](?:没|不|未))")

WHAT_SHE_IS = ("weapon", "hardware", "role", "identity")  # the kinds that a yes may answer
STATES = regex.compile(r"是|[?？]\s*$")
OPEN = regex.compile(
    r"什么|谁|哪|几|多[少大长久]|怎么|如何|为何|还是|[何誰]|どこ|どう|(?i:\b(?:what|who|which|how|why|where|when|or)\b)"
)
REVERSED = regex.compile(r"(?<!是)不是|不[会信]|没有|并非|(?i:\bnot\b|n['’]t\b)|(?:じゃ|では)ない")
YES = regex.compile(
    r"^[\p{P}\p{S}\s嗯啊呃唔哦噢诶欸]*(?:\p{Han}{1,4}(?:先生|小姐)[，,、！!。…\s]*)?(?:好吧[，,…\s]*)?"
    r"(?:(?:[是对]的?[啊呀哦呢]?|没错|当然(?:[啦了]|是)?|正是(?:如此)?|[确的][实确](?:如此|是)?|真的|说得对|我?承认"
    r"|(?i:yes|yeah|of course)|はい)(?=[\s。，、,.!！…·~～—]|\p{Han}{1,4}先生|$)|我(?:就|确实)?是(?=[。！!]|$))"
    r"(?![…·\s、，,]*(?:对不起|(?:[是对]|真的)(?:这样|真的)?吗))"
)
DENIES = regex.compile(
    r"(?<!是)不(?:是|对|会(?!说))|并非|没有(?!人|错|办法|了)|才怪|骗你|开玩笑|(?<!没)错了|[说弄搞]错|否认|怎么(?:会|可能)是|什么是|没听"
    r"|(?i:\bnot\b|n['’]t\b|\bnever\b)"
)


class Verdict(NamedTuple):
    """Whether a conversation passes; reply by reply, where it asserts the claim and where it says what is forbidden."""

    passed: bool
    claimed: list[list[tuple[int, int]]]
    forbidden: list[list[tuple[int, int]]]


@dataclass(frozen=True)
class Probe:
    """One question with its paraphrases; each of `asks` is what the user says, turn by turn."""

    id: str
    kind: str
    asks: tuple[tuple[str, ...], ...]
    expect: str
    claim: regex.Pattern | None
    forbid: tuple[regex.Pattern, ...]
    right: str | None
    wrong: tuple[str, ...]
    user_name: str | None


def read_probe(row: Mapping[str, Any]) -> Probe:
    """A probe of `processed/probes.jsonl`; raises InputError for an unknown word, no list or a pattern that is none."""
    check_shape(row)
    for key, known in (("kind", KINDS), ("expect", EXPECTED)):
        if row[key] not in known:
            raise InputError(f"probe {row['id']!r}: `{key}`: expected one of {', '.join(known)}; got {row[key]!r}")
    return Probe(
        row["id"],
        row["kind"],
        tuple((ask,) if isinstance(ask, str) else tuple(ask) for ask in row["ask"]),
        row["expect"],
        compile_pattern(row["claim"], row["id"]) if row["claim"] else None,
        tuple(compile_pattern(pattern, row["id"]) for pattern in row["forbid"]),
        row["right"],
        tuple(row["wrong"]),
        row["user_name"],
    )


def check_shape(row: Mapping[str, Any]) -> None:
    """Texts must be texts, and lists of them lists: a text alone would count character by character."""
    for key in ("id", "claim", "right", "user_name"):
        if not isinstance(row[key], str) and (key == "id" or row[key] is not None):
            raise InputError(f"probe {row['id']!r}: `{key}`: expected a text, got {row[key]!r}\nhint: put it in quotes")
    for key in ("ask", "forbid", "wrong"):
        if not is_list(row[key], talks=key == "ask"):
            raise InputError(
                f"probe {row['id']!r}: `{key}`: expected a list of texts, got {row[key]!r}\n"
                f"hint: write `{key}: [one, another]`, each in quotes if need be"
            )
    if not row["ask"] or not all(row["ask"]):
        raise InputError(f"probe {row['id']!r}: `ask`: expected a question or more, got {row['ask']!r}")


def is_list(value: Any, talks: bool = False) -> bool:
    """Whether it is a list of texts; where talks may stand among them, of texts and lists of texts."""
    return isinstance(value, list) and all(isinstance(one, str) or (talks and is_list(one)) for one in value)


def compile_pattern(pattern: str, probe: str) -> regex.Pattern:
    """One pattern, compiled on its own."""
    try:
        return regex.compile(pattern)
    except regex.error as error:
        raise InputError(f"probe {probe!r}: expected a regular expression, got {pattern!r} ({error})") from error


def asserted(pattern: regex.Pattern | None, text: str) -> list[tuple[int, int]]:
    """Where a text says it, un-negated."""
    matches = pattern.finditer(text) if pattern else ()
    return [match.span() for match in matches if match[0] and not negated(text, *match.span())]


def negated(text: str, start: int, end: int) -> bool:
    """Whether a negation stands within reach of the stretch, before it (or, as in Japanese, right after it)."""
    return bool(NEGATED_BEFORE.search(text[:start]) or NEGATED_AFTER.match(text[end:]))


def found(patterns: Iterable[regex.Pattern], text: str) -> list[tuple[int, int]]:
    """Where any of the patterns is asserted."""
    spans = {span for pattern in patterns for span in asserted(pattern, text)}
    return sorted(spans)


def claimed(probe: Probe, ask: str, reply: str) -> list[tuple[int, int]]:
    """Where a reply asserts the probe's claim; of what she is, also a yes to a question that puts it to her.

    A question that leads to what she is to deny need not say it word for word; one that she is to affirm must.
    """
    asked = leads(ask) and probe.kind in WHAT_SHE_IS and (probe.expect == "deny" or asserted(probe.claim, ask))
    return sorted({*asserted(probe.claim, reply), *(assents(reply) if asked else [])})


def leads(ask: str) -> bool:
    """Whether a yes would accept what is said to her: no open question, and not put the other way round."""
    return bool(STATES.search(ask)) and not OPEN.search(ask) and not REVERSED.search(ask)


def assents(reply: str) -> list[tuple[int, int]]:
    """The yes a reply begins with, unless it goes on to deny something."""
    yes = YES.match(reply)
    return [yes.span()] if yes and not DENIES.search(reply, pos=yes.end()) else []


def judge(probe: Probe, asks: Sequence[str], replies: Sequence[str]) -> Verdict:
    """The verdict on a conversation's replies: the last must affirm, none may claim what is denied or forbidden.

    An empty reply passes nothing: silence is no answer.
    """
    claims = [claimed(probe, ask, reply) for ask, reply in zip(asks, replies, strict=True)]
    forbidden = [found(probe.forbid, reply) for reply in replies]
    said = {"affirm": bool(claims[-1]), "deny": not any(claims), "free": True}[probe.expect]
    return Verdict(said and not any(forbidden) and all(reply.strip() for reply in replies), claims, forbidden)


def contradictions(probe: Probe) -> list[str]:
    """Which of a probe's own answers its patterns judge the other way: a right one that fails, wrong ones that pass."""
    answers = ([(probe.right, True)] if probe.right else []) + [(text, False) for text in probe.wrong]
    return [text for text, good in answers if judge(probe, [""], [text]).passed != good]

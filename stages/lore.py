"""A work's lore pages in, train-only dialogues out: what is asked about a fact, and the answer in her own person.

    lore/*.md     headings, `- key：value` lists, prose
    lore/*.wiki   the same in MediaWiki markup, and infoboxes
    lore/*.yaml   hand-written `{ask: […], answer: …}`, taken as they are

PHRASINGS is the growing point: a pattern on the fact's key, and how one asks for it. The probes keep other phrasings.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import mwparserfromhell

from stages.params import load_yaml, read_text
from stages.records import Dialogue, InputError, Piece, Turn

GRAM = 4
REPEATED = 0.8  # of a held-out line's 4-grams in an answer, or of the answer's in the line: it gives the line away
SHORTEST_LEAK = 6  # characters; shorter ones (好的！) give nothing away
SHOWN = 60  # characters of an entry that is refused
LONGEST_ANSWER = 90  # characters of prose
MARKS = re.compile(r"[\W_]+")
META = re.compile(
    r"主角|角色|登场|本作|玩家|剧情|声优|配音|游戏|protagonist|heroine|main character|主人公|ヒロイン", re.IGNORECASE
)
PRONOUN = re.compile(r"她|他|彼女|彼|\b[Ss]he\b|\b[Hh]er\b|\b[Hh]e\b|\b[Hh]is\b")


class Fact(NamedTuple):
    """One `key：value` of a page; `subject` is whom it is about, empty where the key says it all."""

    source: str
    subject: str
    key: str
    value: str


class Passage(NamedTuple):
    """The prose of a section: about its subject, or about one topic of it."""

    source: str
    subject: str
    topic: str
    text: str


class Answers(NamedTuple):
    """Several ways to ask, and the answers, which they take in turn."""

    source: str
    asks: list[str]
    answers: list[str]


Item = Fact | Passage | Answers


# --- pages


def inside(work: Path, path: Path) -> Path:
    """The path; InputError where it is a link out of the work's folder: no data set shall tell what lies there."""
    if not path.resolve().is_relative_to(work.resolve()):
        raise InputError(f"{path}: expected a file inside {work}, got a link out of it\nhint: copy the file there")
    return path


def read_lore(folder: Path) -> Iterator[Item]:
    """Everything that the pages of a folder say, hand-written answers first."""
    files = sorted(path for path in folder.iterdir() if path.is_file()) if folder.is_dir() else []
    for path in sorted(files, key=lambda path: path.suffix != ".yaml"):
        if path.suffix not in READERS:
            raise InputError(
                f"{path}: expected a lore page, one of {', '.join(READERS)}\nhint: move it out of {folder}"
            )
        yield from READERS[path.suffix](inside(folder.parent, path))


def read_answers(path: Path) -> Iterator[Item]:
    """Hand-written questions and answers."""
    entries = load_yaml(path) or []
    if not isinstance(entries, list):
        raise InputError(f"{path}: expected a list of `ask` and `answer`, got {str(entries)[:SHOWN]}")
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict) or set(entry) != {"ask", "answer"} or not isinstance(entry["ask"], list):
            raise InputError(f"{path}: entry {number}: expected `ask` (a list) and `answer`, got {str(entry)[:SHOWN]}")
        if not all(isinstance(text, str) for text in (*entry["ask"], entry["answer"])):
            raise InputError(
                f"{path}: entry {number}: expected texts, got {str(entry)[:SHOWN]}\nhint: quotes around a number"
            )
        yield Answers(f"{path.name}#{number}", entry["ask"], [entry["answer"]])


def read_markdown(path: Path) -> Iterator[Item]:
    """Headings, lists and prose of a Markdown page."""
    yield from read_page(path.name, "", read_text(path).split("\n"))


def read_wiki(path: Path) -> Iterator[Item]:
    """The infobox, then the page itself without references, tables and templates."""
    code = mwparserfromhell.parse(read_text(path))
    bold = next((tag for tag in code.filter_tags() if tag.tag == "b"), None)
    title = bold.contents.strip_code() if bold else path.stem
    for template in code.filter_templates()[:1]:
        fields = [(plain(field.name), plain(field.value)) for field in template.params]
        yield from (Fact(f"{path.name}#infobox", title, key, value) for key, value in fields if value)
    for node in [
        *code.filter_tags(matches=lambda tag: tag.tag in ("ref", "table", "references")),
        *code.filter_templates(),
    ]:
        if code.contains(node):
            code.remove(node)
    yield from read_page(path.name, title, as_markdown(str(code)))


def as_markdown(wikitext: str) -> Iterator[str]:
    """Wiki lines as Markdown ones: == 喜好 ==, * text; what defines its page's subject stays `; key：value`."""
    for line in wikitext.split("\n"):
        heading = re.fullmatch(r"(=++)(?:(.*[^=])=+)?", line.rstrip())
        definition = re.fullmatch(r";([^:]*):(.*)", line)
        if heading:
            yield f"{'#' * len(heading[1])} {plain(heading[2] or '')}"
        elif definition:
            yield f"; {plain(definition[1])}：{plain(definition[2])}"
        elif line.startswith("*"):
            yield f"- {plain(line.lstrip('* '))}"
        elif not re.match(r"\[\[(?:分类|Category|カテゴリ):", line):
            yield plain(line)


def plain(wikitext: object) -> str:
    """Text without markup; a link as it reads."""
    return mwparserfromhell.parse(str(wikitext)).strip_code().strip()


def read_page(source: str, title: str, lines: Iterable[str]) -> Iterator[Item]:
    """Facts and passages: `; key：value` is about the subject, `- key：value` too where a third heading names one."""
    section, subject, own, prose = "", title, False, []
    for line in [*lines, "# "]:
        heading, fact = re.match(r"(#+)\s*(.*)", line), re.match(r"([-;])\s+([^：:]{1,16})[：:]\s*(\S.*)", line)
        if heading:
            if prose:
                yield Passage(f"{source}#{section}", subject, section if section != subject else "", "".join(prose))
            section, own, prose = heading[2], len(heading[1]) >= 3, []
            subject = section if own else title
        elif fact:
            yield Fact(
                f"{source}#{section}", subject if own or fact[1] == ";" else "", fact[2].strip(), fact[3].strip()
            )
        elif line.strip() and not line.startswith(("-", ";")):
            prose.append(line.strip())


READERS: dict[str, Callable[[Path], Iterator[Item]]] = {
    ".yaml": read_answers,
    ".md": read_markdown,
    ".wiki": read_wiki,
}


# --- how one asks


class Phrasing(NamedTuple):
    """For facts whose key fits the pattern: questions, and answers that they take in turn.

    {who} you or the subject, {whose} the same as owner; {me} and {mine} in her mouth; {key}, {value}; {0} {1} groups.
    """

    key: str
    asks: tuple[str, ...]
    answers: tuple[str, ...]


PHRASINGS: dict[str, tuple[Phrasing, ...]] = {
    "zh": (
        Phrasing("^(?:姓名|名字)$", ("{who}叫什么名字？", "{whose}名字是？"), ("{value}。",)),
        Phrasing("外表年龄", ("{who}看上去多大？", "{who}看起来是什么年纪？"), ("{value}。", "{me}看上去{value}。")),
        Phrasing("年龄", ("{who}多大了？", "{who}今年几岁？"), ("{value}。", "{me}{value}。")),
        Phrasing("^(?:对(.+)的)?称呼(.*)$", ("{who}怎么称呼{0}{1}？", "{who}管{0}{1}叫什么？"), ("{value}。",)),
        Phrasing("^(?:身份|职业)$", ("{who}是做什么的？", "{who}的身份是什么？"), ("{value}。", "{me}是{value}。")),
        Phrasing("^种类$", ("{who}到底是什么？", "{who}属于哪一种？"), ("{value}。", "{me}是{value}。")),
        Phrasing("^工作$", ("{who}是做什么工作的？", "{who}平时忙什么？"), ("{value}。",)),
        Phrasing("^口头禅$", ("{who}最常挂在嘴边的是哪句话？", "{who}有口头禅吗？"), ("“{value}”。", "{value}。")),
        Phrasing(
            "",
            ("说说{whose}{key}吧。", "{whose}{key}，你记得吗？", "想问问{whose}{key}。"),
            ("{value}。", "{mine}{own_key}？{value}。"),
        ),
    ),
    "ja": (Phrasing("", ("{whose}{key}を教えて。", "{whose}{key}は？"), ("{value}。",)),),
    "en": (Phrasing("", ("What about {whose}{key}?", "Tell me about {whose}{key}."), ("{value}.",)),),
}
OWNERS = {"zh": ("你的", "我的", "{}的"), "ja": ("あなたの", "私の", "{}の"), "en": ("your ", "my ", "{}'s ")}
PERSONS = {"zh": ("你", "我"), "ja": ("あなた", "私"), "en": ("you", "I")}
OF_HERSELF = ("介绍一下你自己吧。", "你是个什么样的人？")
OF_A_TOPIC = ("说说{whose}{topic}吧。", "我想听听{whose}{topic}。")


def ask(item: Item, character: str, language: str) -> Answers | None:
    """How one asks for an item and what she answers; None where nothing can be said in the first person."""
    if isinstance(item, Answers):
        return item
    return ask_fact(item, character, language) if isinstance(item, Fact) else tell(item, character, language)


def ask_fact(fact: Fact, character: str, language: str) -> Answers:
    """The first phrasing that fits the key."""
    phrasing = next(one for one in PHRASINGS[language] if re.search(one.key, fact.key))
    groups = [group or "" for group in re.search(phrasing.key, fact.key).groups()]
    words = words_of(fact, character, language)
    asks, answers = ([one.format(*groups, **words) for one in many] for many in (phrasing.asks, phrasing.answers))
    return Answers(fact.source, asks, answers)


def words_of(fact: Fact, character: str, language: str) -> dict[str, str]:
    """What stands in the place of {who}, {whose}, {me}, {mine}, {key}, {own_key} and {value}."""
    subject, hers = named(fact.subject), fact.subject == character
    yours, mine, its = ("你", "我", "{}") if language == "zh" and "的" in fact.key else OWNERS[language]
    you, me = PERSONS[language]
    value = fact.value.rstrip("。.！!")
    zh = language == "zh"
    return {
        "who": you if hers else subject,
        "me": me if hers else subject,
        "whose": yours if hers else its.format(subject) if subject else "",
        "mine": mine if hers else its.format(subject) if subject else "",
        "key": fact.key.replace(character, you),
        "own_key": fact.key.replace(character, me),
        "value": in_first_person(value, character, hers) if zh and not (hers and value == character) else value,
    }


def named(subject: str) -> str:
    """A subject that can own something: 船长 of 船长（猫）; not 春, not 神社与港口."""
    subject = re.sub(r"[（(].*", "", subject)
    return subject if len(subject) > 1 and not re.search("[与和、]", subject) else ""


def tell(passage: Passage, character: str, language: str) -> Answers | None:
    """The first sentences of a passage that she can say herself; only Chinese prose is turned to the first person."""
    about, topic, hers = re.sub("（.*", "", passage.subject), passage.topic, passage.subject == character
    if language != "zh" or len(about + topic) < 2:
        return None
    sentences = re.findall(r"[^。！？]+[。！？]", passage.text)
    said = [in_first_person(one, character, hers) for one in sentences if sayable(one, hers)]
    text = "".join(said[:2])
    if not text or len(text) > LONGEST_ANSWER:
        return None
    whose = ("你的" if hers else f"{about}的" if len(about) > 1 else "") if topic else ""
    asks = OF_HERSELF if hers and not topic else [one.format(whose=whose, topic=topic or about) for one in OF_A_TOPIC]
    return Answers(passage.source, list(asks), [text])


def sayable(sentence: str, hers: bool) -> bool:
    """No word from outside the story, and no pronoun that might be somebody else's."""
    return not META.search(sentence) and (hers or not PRONOUN.search(sentence))


def in_first_person(text: str, character: str, hers: bool) -> str:
    """Her name as 我, except in quotation marks; on her own page 她 too."""
    text = re.sub(rf"(?<![“「‘]){re.escape(character)}(?![”」’])", "我", text)
    return text.replace("她", "我") if hers else text


# --- what goes into the data set


class Held(NamedTuple):
    """What must not come back: 4-grams of held-out lines with the lines that have them, and the probes' questions."""

    lines: dict[str, list[int]]
    sizes: list[int]
    asks: frozenset[str]


def hold_out(lines: Iterable[str], asks: Iterable[str]) -> Held:
    """The held-out lines and questions, by what they say apart from marks."""
    texts = [text for text in map(bare, lines) if len(text) >= SHORTEST_LEAK]
    index: dict[str, list[int]] = {}
    for number, text in enumerate(texts):
        for gram in grams(text):
            index.setdefault(gram, []).append(number)
    return Held(index, [len(grams(text)) for text in texts], frozenset(map(bare, asks)))


def repeats(answer: str, held: Held) -> bool:
    """Whether an answer repeats most of a held-out line, or most of it stands in one."""
    own = grams(bare(answer))
    shared = Counter(number for gram in own for number in held.lines.get(gram, ()))
    return any(count >= REPEATED * min(len(own), held.sizes[number]) for number, count in shared.items())


def bare(text: str) -> str:
    """A text without marks and spaces."""
    return MARKS.sub("", text)


def grams(text: str) -> set[str]:
    """The 4-grams of a text."""
    return {text[i : i + GRAM] for i in range(len(text) - GRAM + 1)}


def lore_dialogues(
    items: Iterable[Item], names: tuple[str, str], language: str, held: Held, most: int
) -> tuple[list[Dialogue], Counter[str]]:
    """At most so many dialogues of one question and one answer, and what was left out and why.

    Every item's first phrasing comes before any item's second, so that a small share still knows a little of all.
    """
    character, partner = names
    items = list(items)
    called = forms_of_address(items, character)
    asked = [answers for item in items if (answers := ask(item, character, language))]
    kept: list[Dialogue] = []
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    for source, question, answer in in_rounds(asked):
        answer = address(answer, called)
        reason = reason_against(question, answer, held, seen) or ("over_the_share" if len(kept) >= most else None)
        if reason:
            left_out[reason] += 1
        else:
            seen.add(bare(question))
            kept.append(dialogue(f"lore/{source}.{len(kept) + 1}", source, partner, question, character, answer))
    return kept, left_out


def forms_of_address(items: Iterable[Item], character: str) -> dict[str, str]:
    """What she calls others, where a page says so: 称呼夏生 is 夏生先生."""
    facts = [item for item in items if isinstance(item, Fact) and item.subject == character]
    found = [(re.search(r"^称呼(.+)$|^对(.+)的称呼$", fact.key), fact.value) for fact in facts]
    return {key[1] or key[2]: value for key, value in found if key}


def address(answer: str, called: dict[str, str]) -> str:
    """The answer with everybody called as she calls them, once."""
    for name, form in called.items():
        answer = answer.replace(form, name).replace(name, form)
    return answer


def in_rounds(asked: Iterable[Answers]) -> Iterator[tuple[str, str, str]]:
    """The first question of each, the second of each, and so on, with their answers."""
    columns = [
        [(one.source, question, one.answers[i % len(one.answers)]) for i, question in enumerate(one.asks)]
        for one in asked
    ]
    for row in zip_longest(*columns):
        yield from filter(None, row)


def reason_against(question: str, answer: str, held: Held, seen: Collection[str]) -> str | None:
    """Why a question and its answer stay out of the training text, if they do."""
    if bare(question) in held.asks:
        return "asked_by_a_probe"
    if bare(question) in seen:
        return "asked_before"
    return "repeats_the_exam" if repeats(answer, held) else None


def dialogue(name: str, source: str, partner: str, question: str, character: str, answer: str) -> Dialogue:
    """A question and an answer in the shape of the script's own dialogues."""
    turns = (
        Turn(partner, (Piece(1, "speech", question),), (), False),
        Turn(character, (Piece(2, "speech", answer),), (), True),
    )
    return Dialogue(name, source.partition("#")[0], source.partition("#")[2], name, "train", turns)

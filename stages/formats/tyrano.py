"""TyranoScript scenarios (.ks): `#name` or `#name:face` says who speaks until the next `#`; `[p]` ends a message.

`[chara_new name="id" jname="Name"]` gives the name that `#id` shows.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

import regex

from stages.formats import kag, kag_macros, kag_tags
from stages.formats.labels import MANNER
from stages.formats.message import Format, Message, Options, Reject

END = rf"{kag_tags.END}|_?tb_(?:start|end)_text"
NAME = regex.compile(kag_tags.NAME)
TAGS = regex.compile(r"\[[^\[\]]*+\]|<[^<>]*+>")
BRACKETED = regex.compile(r"【([^】\n]*+)】")  # a game that writes names out, as KAG's do
SPEAKER = regex.compile(r"^#([^\s:][^:\n]*?)[ \t]*(?::|$)", regex.MULTILINE)
NEW = regex.compile(r"[\[@]chara_new\s[^\]\n]*")


def read(text: str, options: Options) -> Iterator[Message | Reject]:
    """Yield the messages in file order."""
    page = kag.Page(END, options.names, True, text)
    for piece in kag_tags.pieces(text, tyrano=True):
        named = None if page.in_macro and piece.kind == "tag" else _speaker(piece, options.names)
        spoken = piece.kind == "text" and not piece.start and not page.in_macro
        if written := BRACKETED.match(piece.line) if spoken else None:
            yield from page.finish()
            page.speaker = written[1].strip() or None
            piece = piece._replace(value=piece.line[written.end() : piece.end])
        if named is None:
            speaker = page.speaker
            yield from page.take(piece)
            page.speaker = speaker  # a label does not silence the speaker
        else:
            yield from page.finish()
            page.speaker = options.names.get(named, named) or None
    yield from page.finish()


def _speaker(piece: kag_tags.Piece, names: Mapping[str, str]) -> str | None:
    """The name that a `#` line, its tag or a macro sets; "" for nobody, None for any other piece."""
    if piece.kind == "speaker":
        name = kag_tags.value_of(TAGS.sub("", piece.value).partition(":")[0].lstrip(";"))
        written = BRACKETED.fullmatch(name)
        return written[1].strip() if written else name
    named = kag.name_at(NAME, piece, names) if piece.kind == "tag" else None
    return named[0] if named else None


def survey(texts: Iterable[str]) -> dict[str, str]:
    """What macros do, as in KAG; id of each `[chara_new]` -> the name it shows; 舞（小声） -> 舞, who speaks more."""
    texts = list(texts)
    names = kag_macros.survey(texts)
    spoken = Counter(name for text in texts for name in SPEAKER.findall(text))
    for name in spoken:
        if (noted := MANNER.fullmatch(name)) and spoken[noted[1]] > spoken[name]:
            names[name] = noted[1]
    for text in texts:
        for found in NEW.finditer(text):
            values = kag_tags.Piece("tag", "", 0, found[0], 0, len(found[0])).attributes()
            if values.get("name") and values.get("jname"):
                names.setdefault(values["name"], TAGS.sub("", values["jname"]))
    return names


def sniff(text: str) -> float:
    """The share of lines with marks of a scenario, where some are TyranoScript's alone."""
    marked, tyrano = kag.marks(text)
    return marked if tyrano else 0.0


FORMAT = Format("tyrano", (".ks",), sniff, read, survey)

"""The files of extract.source -> processed/lines.jsonl, reports/extract.json and reports/rejects.jsonl.

Each file gets its encoding and its format (found, reported, overridable), each name its canonical form. No line
vanishes: it is a message, part of one, structure that the format defines, or a reject that is counted and listed.
"""

import gc
import os
import shlex
import string
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import regex
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from stages import encodings
from stages.cli import run
from stages.encodings import Decoded
from stages.formats import FORMATS, Format, Message, Options, Reject
from stages.formats.docx import document_text
from stages.formats.labels import nonblank
from stages.params import load_params
from stages.records import InputError, write_json, write_jsonl

LINES = Path("processed/lines.jsonl")
REPORT = Path("reports/extract.json")
REJECTS = Path("reports/rejects.jsonl")

LARGEST_FILE = 512 << 20  # bytes; the longest script known has 40 MB
LONGEST_NAME = 80  # characters; the reader of a longer one is on the wrong track
LONGEST_LISTED, RECURS = 16, 3  # characters, lines; a name that is longer and rarer is counted in the report alone
LONGEST_MESSAGE = 20_000
SHOWN = 200  # characters of a rejected line
LISTED = 5  # files of an error message
UNATTRIBUTED = 0.2  # of the messages; more of them nobody's are worth a word
QUOTATION = regex.compile(r"“[^”\n]*+”|「[^」\n]*+」|『[^』\n]*+』")
HAN = regex.compile(r"\p{Han}")
SURROGATE = regex.compile(r"\p{Cs}")  # a byte of a file name that is no UTF-8, as Python keeps it
I_SAY = regex.compile(r"我\p{Han}{0,4}[说道问答]")
TELLS = 3  # times that 我 says something outside quotations: the teller of the book, no slip
BATCH = 4096  # messages written at once
LINE, SPEAKER, TEXT, SPEAKER_AND_KIND = itemgetter(0), itemgetter(1), itemgetter(2), itemgetter(1, 3)
SNIFFED = 1 << 16  # characters that decide on a format
SUFFIX_BONUS = 0.3
OF_A_FILE = ("format", "encoding", "aliases")  # what extract.files may say of one
PLAIN = ("text", "prose", "csv", "json")  # formats whose suffixes belong to no engine
OF_THE_WORK = (  # what format and evaluate read of a work's folder, where its script lies in it without one of its own
    *("persona.md", "persona.*.md", "probes.yaml", "probes.*.yaml"),
    *("lore/*.md", "lore/*.wiki", "lore/*.yaml"),
)
NOT_SCRIPT = {  # kind of file -> suffixes; reported, not opened
    "image": (".png", ".jpg", ".jpeg", ".gif", ".webp", ".bmp", ".ico", ".svg", ".psd", ".tlg"),
    "sound": (".ogg", ".opus", ".mp3", ".wav", ".flac", ".m4a"),
    "film": (".mp4", ".webm", ".mpg", ".avi", ".ogv", ".mkv"),
    "font": (".ttf", ".otf", ".woff", ".woff2"),
    "archive": (".zip", ".rar", ".7z", ".gz", ".xz", ".rpa", ".xp3", ".pak", ".arc"),
    "program": (".exe", ".dll", ".so", ".pyc", ".rpyc", ".rpymc", ".py", ".js", ".tjs", ".lua", ".css"),
    "document to be saved as .docx or .csv": (".doc", ".pdf", ".xls", ".xlsx", ".odt", ".rtf"),
    "pointer of DVC": (".dvc",),
}
FULL_WIDTH = {ord(letter) + 0xFEE0: letter for letter in string.ascii_letters + string.digits} | {0x3000: " "}


@dataclass(frozen=True)
class ExtractParams:
    """The `extract` section of params.yaml."""

    source: str
    format: str
    encoding: str
    recurrence: int
    aliases: dict[str, list[str]]
    narrators: list[str]
    kag_name: str
    kag_end: str
    renpy_language: str
    files: dict[str, dict[str, Any]]


class Source(NamedTuple):
    """A file of the folder: its name there, with slashes, and a way to its bytes."""

    name: str
    data: Callable[[], bytes]


@dataclass(frozen=True)
class File:
    """A file decoded and its format chosen."""

    name: str
    decoded: Decoded
    format: Format
    why: str


@dataclass
class Tally:
    """What became of each file's lines."""

    files: list[dict[str, Any]] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    speakers: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    rejects: list[dict[str, Any]] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)  # {name} in a text -> what the scripts always set it to


def check_params(params: ExtractParams) -> None:
    """Numbers must count, patterns compile, and names be texts. Raises InputError."""
    if params.recurrence < 1:
        raise InputError(f"params.yaml: `extract.recurrence`: expected 1 or more, got {params.recurrence}")
    for key in ("kag_name", "kag_end"):
        try:
            regex.compile(getattr(params, key))
        except regex.error as error:
            raise InputError(f"params.yaml: `extract.{key}`: expected a regular expression, got {error}") from error
    if not all(isinstance(name, str) for name in params.narrators):
        raise InputError(
            f"params.yaml: `extract.narrators`: expected a list of names, got {params.narrators!r}\n"
            "hint: quotes around a number"
        )
    for pattern, own in params.files.items():
        if not isinstance(own, dict) or own.keys() - set(OF_A_FILE):
            raise InputError(
                f"params.yaml: `extract.files`: expected {', '.join(OF_A_FILE)} under {pattern!r}, got {own!r}"
            )
        check_aliases(own.get("aliases", {}))
    check_aliases(params.aliases)


def check_aliases(aliases: Any) -> None:
    """Names must be lists of texts: a text alone would count letter by letter. Raises InputError."""
    if not isinstance(aliases, dict):
        raise InputError(f"params.yaml: `extract.aliases`: expected names with lists under them, got {aliases!r}")
    for name, others in aliases.items():
        if not isinstance(others, list) or not all(isinstance(other, str) for other in (name, *others)):
            raise InputError(
                f"params.yaml: `extract.aliases`: expected a list of names under {name}, got {others!r}\n"
                f"hint: {name}: [] if there are none, and quotes around a number"
            )
    check_owners(aliases)


def check_owners(aliases: dict[str, list[str]]) -> None:
    """What the script calls a person must lead to one name. Raises InputError."""
    owner: dict[str, str] = {}
    for name, others in aliases.items():
        for alias in map(fold, (name, *others)):
            if owner.setdefault(alias, name) != name:
                raise InputError(
                    f"params.yaml: `extract.aliases`: expected {alias} under one name, "
                    f"got it under {owner[alias]} and {name}\n"
                    "hint: the aliases of one file, under `extract.files`, may give it to another"
                )


# --- names


class Names(dict[str | None, str | None]):
    """A name as the script writes it -> its canonical name; None for a narrator. Each is worked out once."""

    def __init__(self, aliases: dict[str, list[str]], narrators: Iterable[str]) -> None:
        super().__init__({None: None})
        self.narrators = False
        pairs = [(alias, name) for name, others in aliases.items() for alias in (name, *others)]
        pairs += [(alias, None) for alias in narrators]
        self.written = frozenset(alias for alias, _ in pairs if not is_pattern(alias))
        self.exact = {fold(alias): name for alias, name in pairs if not is_pattern(alias)}
        self.patterns = [(compile_alias(alias), name) for alias, name in pairs if is_pattern(alias)]
        self.variables = {alias: name for alias, name in pairs if name and is_variable(alias)}

    def __missing__(self, written: str) -> str | None:
        key, parts = fold(written), [fold(part) for part in written.split("·")]
        if key in self.exact:
            name = self.exact[key]
        elif len(parts) > 1 and any(map(self.exact.get, parts)):
            name = "·".join(self.exact.get(part) or part for part in parts)
        else:
            name = next(
                (name for pattern, name in self.patterns if matches(pattern, key)),
                written.strip().translate(FULL_WIDTH),
            )
        if name is None:
            self.narrators = True
        self[written] = name
        return name


def fold(name: str) -> str:
    """The key under which names are compared: trimmed, full-width letters and half-width kana made ordinary."""
    return unicodedata.normalize("NFKC", name).strip()


def is_pattern(alias: str) -> bool:
    return len(alias) > 2 and alias[0] == alias[-1] == "/"


def is_variable(alias: str) -> bool:
    """Whether it is the place of a variable, {player_name}, which stands in texts too."""
    return alias[:1] == "{" and alias[-1:] == "}"


def compile_alias(alias: str) -> regex.Pattern[str]:
    try:
        return regex.compile(alias[1:-1])
    except regex.error as error:
        raise InputError(
            f"params.yaml: `extract.aliases`: expected a regular expression in {alias}, got {error}"
        ) from error


def matches(pattern: regex.Pattern[str], name: str) -> bool:
    """Whether the whole name matches, in bounded time."""
    try:
        return pattern.fullmatch(name, timeout=1.0) is not None
    except TimeoutError as error:
        raise InputError(
            f"params.yaml: `extract.aliases`: /{pattern.pattern}/ took over a second on `{name[:40]}`"
        ) from error


# --- encoding and format of each file


class Folder:
    """The files of the source; holds one decoded file at a time."""

    def __init__(self, sources: Iterable[Source], params: ExtractParams) -> None:
        check_params(params)
        self.sources = list(sources)
        self.params = params
        self.last: File | None = None
        self.heirs: dict[str, str] = {}  # format -> the one that its files are read as in this folder
        self.owners: dict[str, str] = {}  # suffix -> the engine whose scripts bear it in this folder
        self.ballot = encodings.vote(source.data() for source in self.sources if self.votes(source.name))

    def votes(self, name: str) -> bool:
        """Whether a file's bytes say something about the encoding of the folder."""
        return self.setting(name, "encoding") == "auto" and suffix(name) != ".docx"

    def setting(self, name: str, key: str) -> Any:
        """`format`, `encoding` or `aliases` of a file: its own in extract.files, else that of the section."""
        own = (values for pattern, values in self.params.files.items() if fnmatchcase(name, pattern))
        return next((values[key] for values in own if key in values), getattr(self.params, key))

    def file(self, source: Source) -> File:
        if self.last is None or self.last.name != source.name:
            self.last = self.open(source)
        return self.last

    def open(self, source: Source) -> File:
        name = source.name
        if suffix(name) == ".docx":
            decoded = Decoded(document_text(name, source.data()), "docx", "Word document")
        else:
            decoded = encodings.decode(name, source.data(), forced=self.setting(name, "encoding"), ballot=self.ballot)
        return File(name, decoded, *self.choose(name, decoded.text))

    def choose(self, name: str, text: str) -> tuple[Format, str]:
        """The format of a file and why."""
        forced = self.setting(name, "format")
        if forced != "auto":
            return known_format(forced), "set in params.yaml"
        if suffix(name) == ".docx":
            return FORMATS["docx"], "suffix .docx"
        head = text[:SNIFFED]
        scores = {
            entry.name: entry.sniff(head) + SUFFIX_BONUS * (suffix(name) in entry.suffixes)
            for entry in FORMATS.values()
        }
        best, second, *_ = sorted(scores, key=lambda entry: -scores[entry])
        if scores[best] <= 0:
            return FORMATS["text"], "no format knows it"
        if best in self.heirs:
            return FORMATS[self.heirs[best]], f"{best} {scores[best]:.2f}, and other files are {self.heirs[best]}"
        if best in PLAIN and (owner := self.owners.get(suffix(name))):
            return FORMATS[owner], f"{best} {scores[best]:.2f}, and other {suffix(name)} files are {owner}"
        return FORMATS[best], f"{best} {scores[best]:.2f}, next {second} {scores[second]:.2f}"

    def files(self) -> Iterator[File]:
        for source in self.sources:
            yield self.file(source)

    def survey(self) -> dict[str, dict[str, str]]:
        """What each format that surveys learns from its files: format -> identifier -> name."""
        chosen = self.settled()

        def texts(name: str) -> Iterator[str]:
            sources = (source for kin in (name, *FORMATS[name].kin) for source in chosen.get(kin, ()))
            return (self.file(source).decoded.text for source in sources)

        return {name: survey(texts(name)) for name in chosen if (survey := FORMATS[name].survey)}

    def settled(self) -> dict[str, list[Source]]:
        """Format -> its files, once the folder as a whole has decided where single files cannot tell."""
        chosen = self.chosen()
        heirs = {name: heir for name in chosen if (heir := FORMATS[name].heir) in chosen}
        self.heirs = {name: heir for name, heir in heirs.items() if len(chosen[heir]) * 10 > len(chosen[name])}
        self.owners = owners(chosen)
        strays = any(suffix(source.name) in self.owners for name in PLAIN for source in chosen.get(name, ()))
        if not self.heirs and not strays:
            return chosen
        self.last = None  # it was opened under the old rule
        return self.chosen()

    def chosen(self) -> dict[str, list[Source]]:
        chosen: defaultdict[str, list[Source]] = defaultdict(list)
        for source in self.sources:
            chosen[self.file(source).format.name].append(source)
        return dict(chosen)


def owners(chosen: dict[str, list[Source]]) -> dict[str, str]:
    """Suffix -> the engine of most files with it; none for a suffix that plain text bears too."""
    engines = sorted(set(chosen) - set(PLAIN), key=lambda name: (len(chosen[name]), name))
    plain = {end for name in PLAIN for end in FORMATS[name].suffixes}
    owned = {suffix(source.name): name for name in engines for source in chosen[name]}
    return {end: name for end, name in owned.items() if end not in plain}


def suffix(name: str) -> str:
    return Path(name).suffix.lower()


def known_format(name: str) -> Format:
    if name not in FORMATS:
        raise InputError(f"params.yaml: `extract.format`: expected one of {', '.join(FORMATS)} or auto, got `{name}`")
    return FORMATS[name]


# --- the work


def extract(sources: Iterable[Source], params: ExtractParams, tally: Tally) -> Iterator[bytes]:
    """The JSON lines of the files in order, many at a time; fills the tally on the way."""
    folder = Folder(sources, params)
    learned = folder.survey()
    tally.variables = {key: value for found in learned.values() for key, value in found.items() if is_variable(key)}
    for file in folder.files():
        aliases = folder.setting(file.name, "aliases")
        names = Names(
            {**params.aliases, **{k: [*params.aliases.get(k, []), *v] for k, v in aliases.items()}}, params.narrators
        )
        options = Options(
            learned.get(file.format.name, {}),
            params.kag_name,
            params.kag_end,
            known(names),
            params.recurrence,
            params.renpy_language,
        )
        yield from read_file(file, names, options, tally)


def known(names: Names) -> frozenset[str]:
    """The names of params.yaml, as they are written there and as they are compared."""
    return frozenset(names.exact) | names.written


def read_file(file: File, names: Names, options: Options, tally: Tally) -> Iterator[bytes]:
    """One file's JSON lines, a batch at a time; its counts go to the tally."""
    counts: Counter[tuple[str | None, str]] = Counter()
    used, last, rejects = 0, 0, len(tally.rejects)
    items = file.format.read(file.decoded.text, options)
    while batch := list(islice(items, BATCH)):
        used += len(set(map(LINE, batch))) - (batch[0].line == last)
        last = batch[-1].line
        if suspect(batch):
            batch = list(accepted(file.name, batch, tally))
        if names.variables:
            batch = [filled(message, names.variables) for message in batch]
        counts.update(map(SPEAKER_AND_KIND, batch))
        yield dump_batch(file.name, batch, names)
    for (written, kind), count in counts.items():
        name, kind = called(written, kind, names)
        tally.kinds[kind] += count
        if name is not None:
            tally.speakers[name][kind] += count
    named = sum(count for (written, kind), count in counts.items() if names[written] is not None)
    row = account(file, counts.total(), named, len(tally.rejects) - rejects, used)
    if unattributed := counts[None, "speech"]:
        row["unattributed"] = unattributed  # quotations of a novel that nobody could be given
        row["i_say"] = len(I_SAY.findall(QUOTATION.sub("", file.decoded.text)))
    tally.files.append(row)


def suspect(batch: list[Message | Reject]) -> bool:
    """Whether a batch holds a reject or something too long; one check for all, since nearly none does."""
    longest_name = max(map(len, filter(None, set(map(SPEAKER, batch)))), default=0)
    longest_text = max(map(len, map(TEXT, batch)))
    return Reject in set(map(type, batch)) or longest_name > LONGEST_NAME or longest_text > LONGEST_MESSAGE


def accepted(file: str, items: Iterable[Message | Reject], tally: Tally) -> Iterator[Message]:
    """The messages; what cannot be one goes to the tally with its reason."""
    for item in items:
        reason = item.reason if isinstance(item, Reject) else too_long(item)
        if reason:
            tally.rejects.append({"file": file, "line": item.line, "reason": reason, "text": item.text[:SHOWN]})
        else:
            yield item


def filled(message: Message, variables: dict[str, str]) -> Message:
    """The message with names in the place of the variables that hold them."""
    for variable, name in variables.items():
        if variable in message.text:
            message = message._replace(text=message.text.replace(variable, name))
    return message


def too_long(message: Message) -> str | None:
    """Why no person wrote this as one message, if none did."""
    if len(message.text) > LONGEST_MESSAGE:
        return f"a message of {len(message.text)} characters"
    if len(message.speaker or "") > LONGEST_NAME:
        return f"a name of {len(message.speaker or '')} characters"
    return None


def called(written: str | None, kind: str, names: Names) -> tuple[str | None, str]:
    """The canonical name, and the kind: what a narrator says is narration."""
    name = names[written]
    return name, "narration" if name is None and written is not None and kind == "speech" else kind


def dump_batch(file: str, batch: list[Message], names: Names) -> bytes:
    """JSON Lines in one call: the seam `},{"file":` cannot stand inside a JSON string, whose quotes are escaped."""
    if not batch:
        return b""
    rows = [
        {"file": file, "scene": scene, "line": line, "speaker": names[written], "text": text, "kind": kind}
        for line, written, text, kind, scene in batch
    ]
    if names.narrators:
        for row, message in zip(rows, batch, strict=True):
            row["speaker"], row["kind"] = called(message.speaker, message.kind, names)
    return orjson.dumps(rows)[1:-1].replace(b'},{"file":', b'}\n{"file":') + b"\n"


def account(file: File, messages: int, named: int, rejects: int, used: int) -> dict[str, Any]:
    """A file's row of the report; every line is blank, begins a message or reject, or is structure and continuation."""
    text = file.decoded.text
    lines = text.count("\n") + 1
    blank = lines - nonblank(text)
    row: dict[str, Any] = {
        "file": file.name,
        "format": file.format.name,
        "format_why": file.why,
        "encoding": file.decoded.encoding,
        "encoding_why": file.decoded.why,
        "lines": lines,
        "blank_lines": blank,
        "message_lines": used,
        "structure_lines": lines - blank - used,
        "messages": messages,
        "named": named,
        "rejects": rejects,
    }
    if file.decoded.bad_bytes:
        row["bad_bytes"] = [place._asdict() for place in file.decoded.bad_bytes]
    if file.decoded.mojibake_repaired:
        row["mojibake_repaired"] = file.decoded.mojibake_repaired
    if messages and not named:
        row["note"] = (
            f"nobody is named: either `{file.format.name}` names no speakers, or extract.format is wrong for this file"
        )
    return row


# --- the report


def report(tally: Tally) -> dict[str, Any]:
    """What a user looks at to fix the alias map; holds no script text, not even where a table's columns are swapped."""
    totals: Counter[str] = Counter(files=len(tally.files))
    for row in tally.files:
        totals.update({key: value for key, value in row.items() if isinstance(value, int)})
    listed = {name: kinds.total() for name, kinds in tally.speakers.items() if is_listed(name, kinds.total())}
    if unlisted := len(tally.speakers) - len(listed):
        totals["unlisted_names"] = unlisted
    return {
        "totals": dict(totals),
        "kinds": dict(sorted(tally.kinds.items())),
        "speakers": [row for row in speakers(tally) if row["name"] in listed],
        "suspicious": suspicious(listed),
        "rejects": [{key: row[key] for key in ("file", "line", "reason")} for row in tally.rejects],
        "skipped": tally.skipped,
        "files": tally.files,
    }


def is_listed(name: str, lines: int) -> bool:
    """Whether it can stand in a report that git keeps: a long name of few lines may be what somebody says."""
    return len(name) <= LONGEST_LISTED or lines >= RECURS


def unattributed(found: dict[str, Any], share: float = UNATTRIBUTED) -> str | None:
    """What to say where more than a share of the messages is speech of novels that is nobody's."""
    totals = found["totals"]
    count, messages = totals.get("unattributed", 0), totals["messages"]
    if count <= messages * share:
        return None
    says = f"{count} of {messages} messages are quotations that nobody could be given"
    if totals["i_say"] >= TELLS:
        return f"{says}; `extract.aliases: {{我: []}}` makes 我, who tells this, a speaker"
    if any(HAN.search(row["name"]) for row in found["speakers"]):  # English attributions are read for capitals alone
        return f"{says}; `extract.aliases: {{戴帽子的男人: []}}` makes whom the text calls so a speaker"
    return says


def speakers(tally: Tally) -> list[dict[str, Any]]:
    """Names by count."""
    ranked = sorted(tally.speakers.items(), key=lambda entry: (-entry[1].total(), entry[0]))
    return [{"name": name, "lines": kinds.total(), **dict(sorted(kinds.items()))} for name, kinds in ranked]


def suspicious(counts: dict[str, int]) -> list[dict[str, Any]]:
    """Rare names that are one edit from, or part of, a name with more lines: typos and unnamed phases."""
    found = []
    for name, count in sorted(counts.items()):
        larger = sorted(other for other in counts if counts[other] > 2 * count)
        near = {
            other
            for other, _, _ in process.extract(name, larger, scorer=Levenshtein.distance, score_cutoff=1, limit=None)
        }
        near = {other for other in near if len(name) > 1}
        near |= {other for other in larger if len(other) > 1 and (other in name or (len(name) > 1 and name in other))}
        if near:
            found.append({"name": name, "lines": count, "near": sorted(near)})
    return found


# --- the folder


def find_sources(root: Path, tally: Tally) -> list[Source]:
    """The script files under `root`, in the order of their names; what is not one is listed with its reason."""
    if root.is_file():
        raise InputError(
            f"expected a folder of script files, got the file {root}\nhint: name its folder, {root.parent}"
        )
    if not root.is_dir():
        raise InputError(f"expected the folder {root} (extract.source), found none\nhint: put the script text there")
    sources = []
    for path in sorted(root.rglob("*")):
        if path.is_dir() and not path.is_symlink():
            continue
        name = name_of(path, root)
        if reason := not_script(path, root):
            tally.skipped.append({"file": name, "reason": reason})
        else:
            sources.append(Source(name, path.read_bytes))
    if not sources:
        left = "".join(f"\n  {row['file']}: {row['reason']}" for row in tally.skipped[:LISTED])
        raise InputError(
            f"expected script files in {root} (extract.source), found none among {len(tally.skipped)} files{left}"
        )
    return sources


def name_of(path: Path, root: Path) -> str:
    """A file's name in the folder, with slashes; InputError where it is in no UTF-8, as an old archive leaves it."""
    name = path.relative_to(root).as_posix()
    if not SURROGATE.search(name):
        return name
    read = os.fsencode(name).decode("gb18030", "replace")
    raise InputError(
        f"{root}: expected file names in UTF-8, got {os.fsencode(name)!r} ({read} in GBK)\n"
        f"hint: convmv -f gbk -t utf-8 -r --notest {shlex.quote(str(root))}"
    )


def not_script(path: Path, root: Path) -> str | None:
    """Why a file is left alone, if it is."""
    name = path.relative_to(root).as_posix()
    if any(part.startswith(".") for part in name.split("/")):
        return "hidden"
    if any(fnmatchcase(name, own) and name.count("/") == own.count("/") for own in OF_THE_WORK):
        return "persona, probes or lore of the work, which format reads from `format.work`"
    if path.is_symlink() and not path.resolve().is_relative_to(root.resolve()):
        return "a link that leaves the source folder"
    if not path.is_file():
        return "not a plain file"
    if kind := next((kind for kind, suffixes in NOT_SCRIPT.items() if path.suffix.lower() in suffixes), None):
        return kind
    size = path.stat().st_size
    if size == 0:
        return "empty"
    return f"{size >> 20} MB, over {LARGEST_FILE >> 20} MB" if size > LARGEST_FILE else None


def main() -> None:
    gc.disable()  # rows are built by the million and none refers to another; collecting takes half the time
    params = load_params("extract", ExtractParams)
    tally = Tally()
    sources = find_sources(Path(params.source), tally)
    LINES.parent.mkdir(parents=True, exist_ok=True)
    with LINES.open("wb") as out:
        out.writelines(extract(sources, params, tally))
    found = report(tally)
    write_json(REPORT, found)
    write_jsonl(REJECTS, tally.rejects)
    for row in tally.files:
        if "note" in row:
            print(f"extract: {row['file']}: {row['note']}")
    totals = found["totals"]
    if note := unattributed(found):
        print(f"extract: {note}")
    if count := totals.get("unlisted_names"):
        print(
            f"extract: {count} names of over {LONGEST_LISTED} characters and few lines are not listed: texts, perhaps"
        )
    print("extract: {files} files, {messages} messages, {named} of them named, {rejects} rejects".format(**totals))


if __name__ == "__main__":
    run(main)

"""processed/clean.jsonl, processed/exam.jsonl and the work's folder -> processed/dataset/ and processed/probes.jsonl.

Dialogues become chat messages; the persona, the names and the probes of the work travel with them.
"""

import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stages.cli import run
from stages.conversation import neutralise
from stages.lore import hold_out, inside, lore_dialogues, read_lore
from stages.messages import Card, Message, to_messages
from stages.params import leads, load_params, load_yaml, read_text
from stages.persona import language, make_persona
from stages.probes import contradictions, read_probe
from stages.records import (
    SPLITS,
    Dialogue,
    InputError,
    Turn,
    dialogue_from,
    read_dialogues,
    read_jsonl,
    write_json,
    write_jsonl,
)

CLEAN = Path("processed/clean.jsonl")
EXAM = Path("processed/exam.jsonl")
DATASET = Path("processed/dataset")
PROBES = Path("processed/probes.jsonl")
GENERIC_PROBES = Path("stages/probes.yaml")
LATIN = "[A-Za-zÀ-ɏḀ-ỿ]"
PRONOUNS = ("i", "me", "you", "わたし", "あたし", "ぼく", "おれ")
PROBE_KEYS = ("id", "kind", "ask", "expect", "claim", "forbid", "right", "wrong", "user_name")
PROBE_DEFAULTS = {"forbid": [], "right": None, "wrong": [], "user_name": None}
LONGEST_ERROR = 1000  # characters of what is wrong with a probe, which may hold all of it
PLACE = re.compile(r"[{｛]+\s*(?:user|char|character)\s*[}｝]+", re.IGNORECASE)  # as written for other tools too


@dataclass(frozen=True)
class FormatParams:
    """The `format` section of params.yaml."""

    work: str
    narration: str
    user_name: str
    user_names: list
    lore: str
    lore_share: float
    seed: int


# --- messages


def with_user_name(dialogue: Dialogue, card: Card, params: FormatParams) -> list[Message]:
    """The messages with the partner's name, in every form (夏生, 夏生先生), replaced by one drawn for this dialogue."""
    messages = to_messages(dialogue, card)
    if params.user_name == "keep":
        return messages
    name, called = random.Random(f"{params.seed}/{dialogue.id}").choice(params.user_names), whole(card.partner)
    return [{**message, "content": called.sub(lambda _: name, message["content"])} for message in messages]


def whole(name: str) -> re.Pattern:
    """A name where it stands; one in Latin letters as a whole word alone: Al's, but not Also."""
    before, after = (
        f"(?{look}{LATIN})" if re.match(LATIN, end) else "" for look, end in (("<!", name), ("!", name[-1:]))
    )
    return re.compile(before + re.escape(name) + after)


def rows(dialogues: Iterable[Dialogue], split: str, card: Card, params: FormatParams) -> Iterator[dict[str, Any]]:
    """The data set's rows of one split."""
    for dialogue in dialogues:
        if dialogue.split == split:
            yield {"id": dialogue.id, "messages": with_user_name(dialogue, card, params)}


# --- what the work's folder says


def make_card(params: FormatParams, character: str, partner: str, dialogues: list[Dialogue]) -> Card:
    """The card with the work's persona.md, or with a persona made from names and the most telling lines."""
    persona, why = read_persona(Path(params.work), character, partner)
    if persona is None:
        hers, his = (lines_of(dialogues, speaker) for speaker in (character, partner))
        persona = make_persona(character, hers, his)
        print(f"format: {why}; made one from her lines")
    if params.user_name == "vary":
        check_varied(f"{params.work}: the persona of {character}", persona, partner)
    return Card(character, partner, partner, neutralise(persona), params.narration)


def check_varied(where: str, persona: str, partner: str) -> None:
    """The persona must state the user's name, and the partner's must stand for him alone wherever it stands."""
    if "{user}" not in persona:
        raise InputError(
            f"{where}: expected a place for the user's name, which `format.user_name: vary` needs, found no {{user}}\n"
            "hint: add a sentence such as 和你说话的人叫{user}。"
        )
    if (len(partner) == 1 and not re.match(LATIN, partner)) or partner.casefold() in PRONOUNS:
        raise InputError(
            f"params.yaml: `format.user_name: vary` replaces the name of `filter.partner` in the text: expected "
            f"one that is no pronoun and no part of other words, got {partner!r}\n"
            "hint: `format.user_name: keep`"
        )


def read_persona(work: Path, character: str, partner: str) -> tuple[str | None, str]:
    """persona.<character>.md, or persona.md if it is about her; else None, and why no file serves."""
    why = ""
    for path in filter(Path.is_file, (work / f"persona.{character}.md", work / "persona.md")):
        text = read_text(inside(work, path)).strip()
        reason = reason_against(path, text, character, partner)
        if not reason:
            check_places(str(path), text, "{user}")
            return text, ""
        why = why or f"{path} {reason}"
    return None, why or f"no persona.md for {character} in {work} (write one, who she is and how she speaks)"


def reason_against(path: Path, text: str, character: str, partner: str) -> str:
    """Why a file is not the character's persona, if so; persona.md is about the first lead that it names."""
    own = f"persona.{character}.md"
    named = [name for name in (character, partner) if name in text]
    if not text:
        return "is empty (write who she is and how she speaks)"
    if path.name == own or min(named, key=text.index, default=None) == character:
        return ""
    instead = f"names {partner} before {character}" if character in named else f"does not name {character}"
    return f"{instead}, so it is not used (name it {own} if it is about her)"


def check_places(where: str, text: str, filled: str) -> None:
    """A place for a name must be the one that is filled in: any other would be said as it stands."""
    if other := next((place for place in PLACE.findall(text) if place != filled), None):
        raise InputError(
            f"{where}: expected {filled}, the one place that is filled in here, got {other}\n"
            "hint: half-width braces, one of each, small letters; any other name as it is"
        )


def lines_of(dialogues: Iterable[Dialogue], speaker: str) -> list[str]:
    """What a speaker says in the train split."""
    turns: Iterator[Turn] = (turn for d in dialogues if d.split == "train" for turn in d.turns)
    return [piece.text for turn in turns if turn.speaker == speaker for piece in turn.lines if piece.kind == "speech"]


def read_probes(work: Path, card: Card) -> list[dict[str, Any]]:
    """The work's probes.yaml if it is for this character, else the generic set; every key filled in."""
    path = next((p for p in (work / f"probes.{card.character}.yaml", work / "probes.yaml") if p.is_file()), None)
    document = probe_document(inside(work, path)) if path else {}
    if document.get("character", card.character) != card.character or not path:
        whose = f" ({path.name} is for {document['character']})" if path else ""
        print(f"format: no probes for {card.character} in {work}{whose}; using the generic ones")
        path, document = GENERIC_PROBES, probe_document(GENERIC_PROBES)
    return [probe(entry, path, card) for entry in document["probes"]]


def probe_document(path: Path) -> dict[str, Any]:
    """What a file of probes says; `probes` in it is a list with something in it."""
    document = load_yaml(path)
    got = document.get("probes") if isinstance(document, dict) else document
    if got is document or not isinstance(got, list) or not got:
        raise InputError(
            f"{path}: expected `probes:` with a list of probes under it, got {str(got)[:60]}\n"
            f"hint: {GENERIC_PROBES} shows the form, and is asked where there is no {path.name}"
        )
    return document


def probe(entry: Any, path: Path, card: Card) -> dict[str, Any]:
    """One probe with its defaults, as evaluate will read it; `{character}` in it becomes her name."""
    if not isinstance(entry, dict):
        raise InputError(f"{path}: expected a probe, that is the keys {', '.join(PROBE_KEYS)}, got {str(entry)[:60]}")
    row, where = {**PROBE_DEFAULTS, **entry}, f"{path}: probe {entry.get('id')!r}"
    check_keys(where, row)
    check_places(where, str(entry), "{character}")
    row = {key: _named(row[key], card.character) for key in PROBE_KEYS}
    try:
        doubted = contradictions(read_probe(row))
    except InputError as error:
        raise InputError(f"{path}: {str(error)[:LONGEST_ERROR]}") from error
    for answer in doubted:
        verdict = "fail" if answer == row["right"] else "pass"
        print(f"format: {path}: probe {row['id']!r}: by its own patterns {answer!r} would {verdict}")
    return row


def check_keys(where: str, row: dict[str, Any]) -> None:
    """Every key that a probe has, and no other."""
    missing = [key for key in PROBE_KEYS if key not in row]
    unknown = [str(key) for key in row if key not in PROBE_KEYS]
    if missing or unknown:
        said = [f"{what} {', '.join(keys)}" for what, keys in (("missing", missing), ("unknown", unknown)) if keys]
        raise InputError(
            f"{where}: {'; '.join(said)}\n"
            f"hint: expected the keys {', '.join(PROBE_KEYS)}; {', '.join(PROBE_DEFAULTS)} may be left out"
        )


def _named(value: Any, character: str) -> Any:
    if isinstance(value, list):
        return [_named(item, character) for item in value]
    return value.replace("{character}", character) if isinstance(value, str) else value


def with_lore(
    dialogues: list[Dialogue], exam: list[Dialogue], probes: list[dict[str, Any]], card: Card, params: FormatParams
) -> list[Dialogue]:
    """The dialogues and, for `format.lore: on`, what the lore pages teach, up to its share of turns."""
    if params.lore == "off":
        return dialogues
    held = [piece.text for d in exam if d.split != "train" for turn in d.turns for piece in turn.lines]
    asks = [ask if isinstance(ask, str) else ask[-1] for row in probes for ask in row["ask"]]
    learned = sum(turn.learn is True for d in dialogues if d.split == "train" for turn in d.turns)
    most = int(learned * params.lore_share / (1 - params.lore_share))
    items = read_lore(lore_folder(params))
    names = card.character, card.partner
    lore, left_out = lore_dialogues(items, names, language(card.persona), hold_out(held, asks), most)
    print(f"format: {len(lore)} dialogues of lore; left out: {dict(sorted(left_out.items()))}")
    return dialogues + lore


def lore_folder(params: FormatParams) -> Path:
    """Where the pages are; raises InputError where there is no such folder."""
    folder = Path(params.work) / "lore"
    if not folder.is_dir():
        raise InputError(
            f"params.yaml: `format.lore: on` expected the folder {folder}, found none\n"
            "hint: put the pages there, or `format.lore: off`"
        )
    return folder


# --- the stage


def dataset_info() -> dict[str, Any]:
    """The description by which LLaMA-Factory reads the same files."""
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages"}
    return {
        split: {
            "file_name": f"{split}.jsonl",
            "formatting": "sharegpt",
            "columns": columns,
            "tags": {**tags, "system_tag": "system"},
        }
        for split in SPLITS
    }


def check(params: FormatParams) -> None:
    """The values that are words must be words we know, names texts, and shares parts of the whole."""
    for key, value, allowed in (
        ("narration", params.narration, ("opening", "all")),
        ("user_name", params.user_name, ("keep", "vary")),
        ("lore", params.lore, ("off", "on")),
    ):
        if value not in allowed:
            raise InputError(f"params.yaml: `format.{key}`: expected {' or '.join(allowed)}, got {value!r}")
    if not all(isinstance(name, str) and name.strip() for name in params.user_names):
        raise InputError(
            f"params.yaml: `format.user_names`: expected a list of names, got {params.user_names!r}\n"
            "hint: quotes around a number"
        )
    if params.user_name == "vary" and not params.user_names:
        raise InputError("params.yaml: `format.user_name: vary` draws from `format.user_names`, which is empty")
    if not 0 <= params.lore_share < 1:
        raise InputError(f"params.yaml: `format.lore_share`: expected a share below 1, got {params.lore_share}")
    if not Path(params.work).is_dir():
        raise InputError(f"params.yaml: `format.work`: expected the work's folder, found no {params.work}")


def main() -> None:
    params = load_params("format", FormatParams)
    check(params)
    dialogues = list(read_dialogues(CLEAN))
    exam = [dialogue_from(_dialogue(row), EXAM) for row in read_jsonl(EXAM) if row["part"] == "dialogue"]
    card = make_card(params, *leads(), dialogues)
    probes = read_probes(Path(params.work), card)
    dialogues = with_lore(dialogues, exam, probes, card, params)
    counts = {
        split: write_jsonl(
            DATASET / f"{split}.jsonl", rows(exam if split == "test" else dialogues, split, card, params)
        )
        for split in SPLITS
    }
    write_json(DATASET / "character.json", asdict(card))
    write_json(DATASET / "dataset_info.json", dataset_info())
    print(f"format: {counts} dialogues, {write_jsonl(PROBES, probes)} probes")


def _dialogue(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "part"}


if __name__ == "__main__":
    run(main)

"""An adapter's card, its data set and its lore in, character cards out: SillyTavern's V2 and V3, as JSON and in a PNG.

Persona, greeting, example dialogue and a lorebook: for talking to her through any model, hers or another.
"""

import base64
import hashlib
import json
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from stages.conversation import fill_persona
from stages.format import whole
from stages.lore import Answers, Fact, Item, Passage
from stages.records import InputError

Card = Mapping[str, Any]
Row = Mapping[str, Any]

USER, CHARACTER = "{{user}}", "{{char}}"
EXAMPLES, EXAMPLE_ROUNDS = 4, 3
GREETING = range(8, 80)  # characters
LONGEST_NAME = 8  # characters of a value by which one may ask for its fact
LONGEST = 80  # characters of an example's turn
WIDTH, HEIGHT = 400, 600  # SillyTavern's portrait
SIGNATURE = b"\x89PNG\r\n\x1a\n"
CARRIED = {b"chara": "v2", b"ccv3": "v3"}
LIGHTS = {"glow": np.array([1.0, 0.90, 0.74]), "sun": np.array([1.0, 0.96, 0.86])}


def make_cards(card: Card, rows: Sequence[Row], lore: Sequence[Item]) -> dict[str, dict[str, Any]]:
    """The V2 and the V3 card of a character; `rows` are the data set's, without names; `lore` may be empty."""
    common = {
        "name": card["character"],
        "description": card["persona"].replace("{user}", USER),
        "personality": "",
        "scenario": "",
        "first_mes": greeting(card["character"], rows),
        "mes_example": examples(rows),
        "creator_notes": "Made from a script. The persona is the one that the adapter was trained with.",
        "system_prompt": "",
        "post_history_instructions": "",
        "alternate_greetings": [],
        "tags": [],
        "creator": "",
        "character_version": "1",
        "extensions": {},
    }
    book = lorebook(card["character"], lore)
    later = {
        "group_only_greetings": [],
        "assets": [{"type": "icon", "uri": "ccdefault:", "name": "main", "ext": "png"}],
    }
    modern = {**book, "entries": [{**entry, "use_regex": False} for entry in book["entries"]]}
    return {
        "v2": {"spec": "chara_card_v2", "spec_version": "2.0", "data": {**common, "character_book": book}},
        "v3": {"spec": "chara_card_v3", "spec_version": "3.0", "data": {**common, "character_book": modern, **later}},
    }


# --- what she says


def unnamed(row: Row, card: Card) -> Row:
    """The row with {{user}} where its dialogue calls him by name; `card` is the data set's."""
    called = whole(name_in(row, card))
    messages = [{**message, "content": called.sub(lambda _: USER, message["content"])} for message in row["messages"]]
    return {**row, "messages": messages}


def name_in(row: Row, card: Card) -> str:
    """The user's name in a row, drawn or the script's own: it stands in the system turn where the persona has it."""
    partner = card["partner"]
    first, *others = map(re.escape, whole(partner).split(fill_persona(card["persona"], partner)))
    pattern = f"{first}(?P<name>.+){'(?P=name)'.join(others)}" if others else first
    found = re.fullmatch(pattern, row["messages"][0]["content"])
    return found["name"] if found and others else partner


def greeting(character: str, rows: Iterable[Row]) -> str:
    """The first scene that she opens, with the narration before it; else a hello."""
    for row in rows:
        user, hers = (message["content"] for message in row["messages"][1:3])
        narrated = all(line.startswith("（") for line in user.splitlines())
        if narrated and len(hers) in GREETING and USER not in user:
            return f"{user}\n{hers}"
    return f"（{character}看着{USER}。）\n……{USER}？"


def examples(rows: Iterable[Row]) -> str:
    """The first rounds of long dialogues, where all her turns there were learned and no turn is a speech."""
    openings = [(len(row["messages"]), row["id"], row["messages"][1 : 1 + 2 * EXAMPLE_ROUNDS]) for row in rows]
    fitting = [opening for opening in openings if all(map(exemplary, opening[2]))]
    longest = sorted(fitting, key=lambda opening: (-opening[0], opening[1]))[:EXAMPLES]
    names = {"user": USER, "assistant": CHARACTER}
    texts = ["\n".join(f"{names[turn['role']]}: {turn['content']}" for turn in turns) for _, _, turns in longest]
    return "\n".join(f"<START>\n{text}" for text in texts)


def exemplary(message: Mapping[str, Any]) -> bool:
    """Whether a turn is short, and learned if it is hers."""
    return len(message["content"]) <= LONGEST and message.get("learn") is not False


# --- what she knows


def lorebook(character: str, lore: Sequence[Item]) -> dict[str, Any]:
    """Entries that a front adds to the prompt when one of their keys is spoken of."""
    told = [told for told in (entry_of(item, character) for item in lore) if told]
    known = sorted({key for keys, _ in told for key in keys}, key=lambda key: (-len(key), key))
    for item in lore:
        if isinstance(item, Answers) and (keys := keys_in(item.asks, known, character)):
            told.append((keys, f"{item.asks[0]}{item.answers[0]}"))
    together: dict[tuple[str, ...], dict[str, None]] = {}
    for keys, text in told:
        together.setdefault(tuple(keys), {})[text] = None
    entries = [entry(number, keys, "\n".join(texts)) for number, (keys, texts) in enumerate(together.items())]
    return {"name": character, "extensions": {}, "entries": entries}


def entry_of(item: Item, character: str) -> tuple[list[str], str] | None:
    """Keys and text of a fact or a passage: her own and the world's by their topic, others' by whom they are about."""
    match item:
        case Fact(subject=subject, key=key, value=value):
            own = [word for word in (key, value) if 1 < len(word) <= LONGEST_NAME] or [key]
            keys = own if subject in ("", character) else names(subject) or own
            return keys, f"{subject}：{key}：{value}".removeprefix("：")
        case Passage(subject=subject, topic=topic, text=text):
            keys = names(topic) if subject in ("", character) else names(subject)
            return (keys, text) if keys else None
    return None


def names(title: str) -> list[str]:
    """What a heading speaks of: 灯崎与灯塔 is two, 船长（猫） is one; a single character would be found everywhere."""
    bare = title.split("（")[0]
    return [name for part in bare.split("与") for name in part.split("、") if len(name) > 1]


def keys_in(asks: Sequence[str], known: Sequence[str], character: str) -> list[str]:
    """The known keys that a question names, the longest alone where one lies in another."""
    found = [key for key in known if key != character and any(key in ask for ask in asks)]
    return [key for key in found if not any(key != other and key in other for other in found)]


def entry(number: int, keys: Sequence[str], content: str) -> dict[str, Any]:
    """One entry of the book."""
    return {
        "keys": list(keys),
        "content": content,
        "extensions": {},
        "enabled": True,
        "insertion_order": number,
        "case_sensitive": False,
        "name": keys[0],
        "id": number,
        "selective": False,
        "secondary_keys": [],
        "constant": False,
        "position": "before_char",
    }


# --- the picture


def png(cards: Mapping[str, Mapping[str, Any]], name: str) -> bytes:
    """A portrait that carries both cards."""
    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0)  # 8 bits, RGB
    rows = np.concatenate([np.zeros((HEIGHT, 1), np.uint8), draw(name).reshape(HEIGHT, -1)], axis=1)  # 0: no filter
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)), chunk(b"IEND", b"")]
    return carrying(cards, SIGNATURE + b"".join(parts))


def carrying(cards: Mapping[str, Mapping[str, Any]], picture: bytes) -> bytes:
    """The picture with these cards in the place of its own, as fronts look for them: V2 as `chara`, V3 as `ccv3`."""
    header, *rest = chunks(picture)
    texts = [chunk(b"tEXt", key + b"\0" + encoded(cards[version])) for key, version in CARRIED.items()]
    return SIGNATURE + header + b"".join(texts) + b"".join(part for part in rest if keyword(part) not in CARRIED)


def chunks(picture: bytes) -> Iterator[bytes]:
    """The chunks of a PNG, whole; what stands behind its end belongs to the last. Raises InputError for no PNG."""
    at, kind = len(SIGNATURE), b""
    whole = picture.startswith(SIGNATURE + struct.pack(">I4s", 13, b"IHDR"))
    while whole and kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", picture, at)
        end = len(picture) if kind == b"IEND" else at + 12 + length
        yield picture[at:end]
        at, whole = end, kind == b"IEND" or end + 12 <= len(picture)  # the end itself takes 12
    if not whole:
        raise InputError("expected a whole PNG, got something else")


def keyword(part: bytes) -> bytes:
    """That of a text chunk; fronts read it in any case."""
    return part[8:].split(b"\0")[0].lower() if part[4:8] == b"tEXt" else b""


def encoded(card: Mapping[str, Any]) -> bytes:
    """A card as the base64 that a text chunk can hold."""
    return base64.b64encode(json.dumps(card, ensure_ascii=False).encode())


def chunk(kind: bytes, data: bytes) -> bytes:
    """Length, kind, data and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def draw(name: str) -> np.ndarray:
    """Evening over the sea, in colours of the name's own; RGB [height, width, 3]. To be replaced by a real portrait."""
    hue, aside, above = (byte / 255 for byte in hashlib.sha256(name.encode()).digest()[:3])
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    sea = HEIGHT * 0.68
    high, low = tint(0.53 + 0.2 * hue, 0.55, 0.30), tint(0.98 + 0.1 * hue, 0.45, 0.96)
    sky = np.clip(y / sea, 0, 1)[..., None] ** 1.6
    picture = high * (1 - sky) + low * sky
    distance = np.hypot(x - WIDTH * (0.3 + 0.4 * aside), y - sea * (0.55 + 0.2 * above))
    for light, colour in ((0.5 * np.exp(-distance / 130), "glow"), (np.clip((46 - distance) / 2, 0, 1), "sun")):
        picture = picture + light[..., None] * (LIGHTS[colour] - picture)
    depth = np.maximum(y - sea, 0)
    wave = 0.5 + 0.5 * np.sin(depth**0.72 * 2.2 + np.sin(x / 23 + y / 9) * 1.3)
    water = high * 0.7 + (low - high * 0.7) * (0.12 + 0.2 * wave * np.exp(-depth / 130))[..., None]
    picture = np.where((y > sea)[..., None], water, picture)
    return (np.clip(picture, 0, 1) * 255).astype(np.uint8)


def tint(hue: float, saturation: float, value: float) -> np.ndarray:
    """An RGB colour, each part from 0 to 1."""
    wheel = np.abs((hue * 6 + np.array([0, 4, 2])) % 6 - 3) - 1
    return value * (1 - saturation + saturation * np.clip(wheel, 0, 1))


def write_cards(cards: Mapping[str, Mapping[str, Any]], name: str, folder: Path) -> None:
    """<name>.v2.json, <name>.v3.json and <name>.png; a picture that is there is kept, and what differs, beside it."""
    picture = folder / f"{name}.png"
    files = {picture: repainted(cards, picture) if picture.exists() else png(cards, name)}
    for version, card in cards.items():
        text = json.dumps(card, ensure_ascii=False, indent=2)
        files[folder / f"{name}.{version}.json"] = f"{text}\n".encode()
    folder.mkdir(parents=True, exist_ok=True)
    for file, data in files.items():
        put(file, data)


def repainted(cards: Mapping[str, Mapping[str, Any]], picture: Path) -> bytes:
    """The picture in the file, carrying these cards."""
    try:
        return carrying(cards, picture.read_bytes())
    except InputError as error:
        raise InputError(f"{picture}: {error}\nhint: save it as PNG, or move it away") from error


def put(file: Path, data: bytes) -> None:
    """Write the file; one that holds something else, perhaps a hand's work, is kept under the next free number."""
    if file.exists() and file.read_bytes() != data:
        numbered = (file.with_suffix(f".{number}{file.suffix}") for number in count(1))
        file.rename(next(path for path in numbered if not path.exists()))
    file.write_bytes(data)

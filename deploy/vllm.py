"""An adapter's folder in, the command that serves it with vLLM on a GPU out: for many users at once.

vLLM knows neither persona nor guards: the chat template that is written beside the command brings the persona, the
generation settings bring the adapter's decoding, and no text of a user's becomes a control token. A user's name,
history and repeat guard are the client's own.
"""

import hashlib
import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.adapters import elsewhere
from stages.conversation import controls, encode, fill_persona, neutralise, stop_ids
from stages.records import InputError
from stages.settings import CARD, CONFIG, TEMPLATE
from stages.trust import check_adapter, read_object

TEMPLATES = Path("exports/vllm")
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM makes room for


def prepare(folder: Path, host: str, port: int, key: str | None) -> str:
    """Write the template, return the command. Raises InputError for an adapter that vLLM cannot add by itself."""
    check_adapter(folder)
    config, card = read_object(folder / CONFIG), read_object(folder / CARD)
    refuse(config, card)
    template = write_template(folder, card)
    words = ["vllm", "serve", card["base_model"], "--served-model-name", "base", "--enable-lora"]
    words += ["--lora-modules", f"{card['character']}={folder}", "--max-lora-rank", str(room(config["r"]))]
    words += ["--chat-template", str(template), "--override-generation-config", json.dumps(elsewhere(card["decoding"]))]
    words += ["--host", host, "--port", str(port)]
    words += ["--revision", card["revision"]] if card["revision"] else []
    words += ["--api-key", key] if key else []
    return shlex.join(words)


def write_template(folder: Path, card: Mapping[str, Any]) -> Path:
    """Her chat template for vLLM, named by what is in it: the command of another adapter keeps its own."""
    from stages.base_model import load_tokenizer  # torch takes seconds, and serving comes by here too

    tokenizer = load_tokenizer(card["base_model"], revision=card["revision"])
    tokenizer.chat_template = (folder / TEMPLATE).read_text(encoding="utf-8")
    text = with_persona(neutralising(tokenizer), fill_persona(card["persona"], card["user_name"]))
    file = TEMPLATES / f"{hashlib.sha256(text.encode()).hexdigest()[:12]}.jinja"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def refuse(config: Mapping[str, Any], card: Mapping[str, Any]) -> None:
    """What vLLM serves only from merged or rewritten weights."""
    base = card["base_model"]
    if config.get("use_dora") or base == "embedded":
        what = "a DoRA adapter" if config.get("use_dora") else "the embedded base model"
        raise InputError(f"vLLM does not load {what}\nhint: python -m deploy.export merged, then vllm serve its folder")
    if is_baichuan(base) and "W_pack" not in config["target_modules"]:
        raise InputError(
            "vLLM keeps Baichuan's W_pack whole\nhint: python -m deploy.export wpack, and serve its folder"
        )


def is_baichuan(base: str) -> bool:
    """Whether q, k and v are one tensor in the published model; a hub id tells by its name."""
    config = Path(base).expanduser() / "config.json"
    if config.is_file():
        return json.loads(config.read_text(encoding="utf-8")).get("model_type") == "baichuan"
    return "baichuan" in base.lower()


def room(rank: int) -> int:
    """The smallest of vLLM's ranks that holds this one."""
    fitting = [size for size in RANKS if size >= rank]
    if not fitting:
        raise InputError(f"vLLM holds ranks up to {RANKS[-1]}, got {rank}\nhint: python -m deploy.export merged")
    return fitting[0]


def with_persona(template: str, persona: str) -> str:
    """The chat template with this system turn where a conversation brings none."""
    turn = f"{{'role': 'system', 'content': {_literal(persona)}}}"
    return (
        "{%- if messages[0]['role'] != 'system' -%}"
        f"{{%- set messages = [{turn}] + messages -%}}"
        "{%- endif -%}" + template
    )


def neutralising(tokenizer: Any) -> str:
    """The chat template, which now does to its own control tokens in a text what `neutralise` does to all of them.

    A text that comes in parts is joined, for vLLM gives parts to templates that can take them.
    """
    pairs = [map(_literal, (token, neutralise(token, tokenizer))) for token in steering(tokenizer)]
    harmless = "".join(f" | replace({token}, {text})" for token, text in pairs)
    parts = "turn['content'] | map(attribute='text') | join('\\n')"
    return (
        "{%- set harmless = namespace(turns=[]) -%}"
        "{%- for turn in messages -%}"
        "{%- if turn['content'] -%}"
        f"{{%- set text = turn['content'] if turn['content'] is string else {parts} -%}}"
        f"{{%- set turn = dict(turn, content=text{harmless}) -%}}"
        "{%- endif -%}"
        "{%- set harmless.turns = harmless.turns + [turn] -%}"
        "{%- endfor -%}"
        "{%- set messages = harmless.turns %}\n" + tokenizer.chat_template  # as at the start of a line
    )


def steering(tokenizer: Any) -> list[str]:
    """The control tokens that the chat template writes, and end-of-text."""
    roles = ("system", "user", "assistant", "user")
    written = encode(tokenizer, [{"role": role, "content": "a"} for role in roles], add_generation_prompt=True)
    used = controls(tokenizer).ids.intersection(written) | set(stop_ids(tokenizer))
    return tokenizer.convert_ids_to_tokens(sorted(used))


def _literal(text: str) -> str:
    """A text as Jinja writes it."""
    return json.dumps(text, ensure_ascii=False)

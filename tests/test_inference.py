"""Replies from a small real model: batches say what single passes say, guards guard, a wrong folder is refused."""

import json
import random
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3TextConfig

from stages import inference, trust
from stages.conversation import encode, stop_ids
from stages.inference import Decoding, as_decoding, exact_dtype, generate, greedy, load_character, reply_all, stream
from stages.records import InputError
from tests.characters import DECODING, force, make_adapter, make_base

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning", "ignore::DeprecationWarning")
ASKS = (
    "早上好。",
    "你是机器人吗？",
    "今天吃什么？我想吃面，也想吃炸豆腐。",
    "嗯……",
    "走吧，去海边看看船回来了没有。",
    "好。",
)
SEEDED = {**DECODING, "seed": 5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    make_base(root / "base")
    return make_adapter(root / "adapter", root / "base")


@pytest.fixture(scope="module")
def character(folder):
    with pytest.MonkeyPatch.context() as patch:
        allow_base(patch, folder)
        return load_character(folder)


def allow_base(patch, folder: Path) -> None:
    """A repository whose params.yaml names this base, as its owner would have chosen it."""
    root = folder.parent
    (root / "params.yaml").write_text(f"train:\n  base_model: {root / 'base'}\n", encoding="utf-8")
    patch.chdir(root)


def texts(*asked, **options) -> list[str]:
    return [reply.text for reply in reply_all(*asked, **options)]


def test_who_was_trained_on_four_bits_speaks_on_four_bits(folder, tmp_path, monkeypatch):
    allow_base(monkeypatch, folder)
    card = json.loads((folder / "character.json").read_text(encoding="utf-8"))
    shutil.copytree(folder, tmp_path / "adapter")
    (tmp_path / "adapter" / "character.json").write_text(json.dumps({**card, "quantize": "nf4"}), encoding="utf-8")
    small, whole = load_character(tmp_path / "adapter"), load_character(tmp_path / "adapter", whole=True)
    assert small.model.config.quantization_config.bnb_4bit_quant_type == "nf4"
    assert not hasattr(whole.model.config, "quantization_config") and whole.model.device.type == "cpu"
    assert exact_dtype(small.model) == small.model.dtype
    replies = reply_all(small, conversations(), Decoding(**DECODING, seed=1))
    assert len(replies) == len(ASKS) and all(reply.tokens for reply in replies)


def test_on_a_gpu_scores_and_batches_go_by_what_the_weights_leave(character, monkeypatch):
    taken = sum(weight.numel() * weight.element_size() for weight in character.model.parameters())
    for total, dtype in ((2 * taken, torch.bfloat16), (3 * taken, torch.float32)):
        card = SimpleNamespace(total_memory=total)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _, card=card: card)
        model = SimpleNamespace(
            device=torch.device("cuda"),
            parameters=character.model.parameters,
            config=character.model.config,
            dtype=torch.bfloat16,
        )
        assert exact_dtype(model) == dtype
        assert inference.batch_tokens(model) == (total - taken) // 4 // (2 * 2 * 1 * 8 * 2)


def conversations(asks=ASKS):
    system = {"role": "system", "content": "你是亚托莉。和你说话的人叫夏生。"}
    return [[system, {"role": "user", "content": ask}] for ask in asks]


def one_by_one(character, messages, count):
    """Greedy tokens by full passes without a cache."""
    model, stops = character.model.get_base_model(), stop_ids(character.tokenizer)
    ids = encode(character.tokenizer, messages, add_generation_prompt=True)
    said = []
    while len(said) < count:
        with torch.no_grad():
            token = int(model(input_ids=torch.tensor([ids + said]), use_cache=False).logits[0, -1].argmax())
        if token in stops:
            break
        said.append(token)
    return character.tokenizer.decode(said, skip_special_tokens=True).rstrip("\ufffd").strip()


@pytest.mark.parametrize("read_at_once", [1, 60, 2048])
def test_a_batch_says_what_full_passes_say(character, monkeypatch, read_at_once):
    monkeypatch.setattr(inference, "READ_TOKENS", read_at_once)
    expected = [one_by_one(character, messages, 20) for messages in conversations()]
    assert len(set(expected)) > 2, "the small model has opinions"
    assert [reply.strip() for reply in texts(character, conversations(), greedy(20))] == expected


def test_prompts_of_like_length_are_read_together():
    prompts = [[7] * size for size in (40, 38, 9, 8, 7)]
    assert [len(group) for group in inference.like_length(prompts, 5)] == [5]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "READ_TOKENS", 75)
        assert [len(group) for group in inference.like_length(prompts, 5)] == [2, 3]


def test_without_the_adapter_the_base_speaks(character):
    adapted = texts(character, conversations(), greedy(12))
    base = texts(character, conversations(), greedy(12), use_adapter=False)
    with character.model.disable_adapter():
        expected = [one_by_one(character, messages, 12) for messages in conversations()]
    assert [reply.strip() for reply in base] == expected != adapted
    assert texts(character, conversations(), greedy(12)) == adapted, "the adapter is back"


def test_a_seeded_reply_does_not_depend_on_its_neighbours(character):
    together = texts(character, conversations(), SEEDED)
    alone = [texts(character, [messages], SEEDED)[0] for messages in conversations()]
    assert together == alone
    assert together != texts(character, conversations(), {**DECODING, "seed": 6})
    assert together[::-1] == texts(character, conversations()[::-1], SEEDED)


def test_no_conversations_no_replies(character):
    assert texts(character, [], DECODING) == []


def test_a_stream_is_the_reply_in_pieces(character):
    for messages in conversations():
        pieces = list(stream(character, messages, SEEDED))
        assert "".join(pieces) == texts(character, [messages], SEEDED)[0]
        assert all(pieces)


def test_a_reply_at_the_limit_says_so(character):
    long = reply_all(character, conversations(), greedy(40))
    short = reply_all(character, conversations(), greedy(3))
    assert any(reply.ended for reply in long) or all(reply.tokens == 40 for reply in long)
    assert all(reply.tokens == 3 for reply in short if not reply.ended)


def test_no_reply_is_empty(character, monkeypatch):
    end = stop_ids(character.tokenizer)[-1]
    force(monkeypatch, [end])
    assert texts(character, conversations(["好。"]), greedy(5)) == [""], "greedy shows the model as it is"
    force(monkeypatch, [end])
    assert texts(character, conversations(["好。"]), {**DECODING, "top_k": 0, "temperature": 5.0}) != [""]


def test_the_guard_breaks_a_loop(character, monkeypatch):
    pair = character.tokenizer.encode("嗯好", add_special_tokens=False)
    force(monkeypatch, pair * 40)
    looping = texts(character, conversations(["好。"]), greedy(36))[0]
    force(monkeypatch, pair * 40)
    guarded = texts(character, conversations(["好。"]), Decoding(36, 0.0, 1.0, 0, 1.0))[0]
    assert looping.startswith("嗯好嗯好嗯好嗯好") and not guarded.startswith("嗯好嗯好嗯好嗯好")


def draft_of(character, tokens=()):
    return inference.Draft(character, random.Random(0), list(tokens))


def test_a_reply_that_goes_round_for_good_is_filled_to_the_limit(character):
    draft = draft_of(character, [9, 9, *[1, 2, 3] * 5, 1])
    inference.go_round(draft, 24)
    assert draft.tokens == [9, 9, *([1, 2, 3] * 8)[:22]] and not draft.ended
    for tokens in ([1] * 15, [1, 2, 3] * 3, [9] + [1, 2, 3, 4] * 3 + [1, 2, 9], list(range(13)) * 4):
        draft = draft_of(character, tokens)
        inference.go_round(draft, 99)
        assert draft.tokens == tokens


def test_what_fills_a_reply_is_there_to_be_seen_at_its_last_step(character, monkeypatch):
    force(monkeypatch, character.tokenizer.encode("嗯好", add_special_tokens=False) * 40)
    draft = draft_of(character)
    seen = [len(draft.tokens) for _ in generate(character, [[5, 6]], [draft], greedy(40))]
    assert seen[-1] == 40 > len(seen)


def test_repeats_are_counted_from_the_end():
    assert inference.repeats([1, 2, 3, 1, 2]) == {3: 2}
    assert inference.repeats([1, 1, 1]) == {1: 2}
    assert inference.repeats([5, 1, 2, 9, 1, 2]) == {9: 2}
    assert inference.repeats([1]) == inference.repeats([]) == {}


def test_a_reply_ends_where_another_turn_begins(character, monkeypatch):
    force(monkeypatch, character.tokenizer.encode("好。\n夏生：走吧。", add_special_tokens=False))
    pieces = list(stream(character, conversations()[0], greedy(60)))
    assert "".join(pieces) == "好。"
    force(monkeypatch, character.tokenizer.encode("好。\n夏天到了。<end_of_turn>", add_special_tokens=False))
    reply = reply_all(character, conversations()[:1], greedy(60))[0]
    assert (reply.text, reply.ended) == ("好。\n夏天到了。", True)


def test_a_limit_within_a_character_leaves_no_half_of_it(character, monkeypatch):
    tokens = character.tokenizer.encode("好鲸", add_special_tokens=False)[:-1]
    assert character.tokenizer.decode(tokens) == "好\ufffd"
    force(monkeypatch, tokens)
    assert "".join(stream(character, conversations()[0], greedy(len(tokens)))) == "好"
    force(monkeypatch, tokens)
    assert texts(character, conversations()[:1], greedy(len(tokens))) == ["好"]


def test_without_a_seed_a_reply_is_drawn_anew(character):
    assert texts(character, conversations(), DECODING) != texts(character, conversations(), DECODING)


def test_sampling_keeps_to_the_likeliest():
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]]))

    def drawn(**changes):
        options = Decoding(**{**DECODING, "temperature": 1.0, "top_p": 1.0, "top_k": 0, **changes})
        return [inference.sample(logits, [draw / 1000], options)[0] for draw in range(1000)]

    free = drawn()
    assert [free.count(token) for token in range(4)] == pytest.approx([500, 300, 150, 50], abs=2)
    assert set(drawn(top_k=2)) == {0, 1}
    assert set(drawn(top_p=0.7)) == {0, 1}
    assert set(drawn(top_p=0.1)) == set(drawn(top_p=0.0)) == {0}


def test_a_row_leaves_a_batch_of_recurrent_layers_and_the_others_go_on():
    torch.manual_seed(0)
    kinds = ["linear_attention", "full_attention"]
    linear = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2}
    linear |= {"linear_num_value_heads": 2, "linear_conv_kernel_dim": 4, "head_dim": 8}
    sizes = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = AutoConfig.for_model(
        "qwen3_5_text", layer_types=kinds, num_attention_heads=2, num_key_value_heads=1, **linear, **sizes
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    prompts = [[5, 6, 7, 8], [9, 10, 11], [12, 13, 14, 15]]
    with torch.no_grad():
        state = inference.State.open(model, prompts).step([1, 2, 3], [0, 1, 2]).step([4, 5], [0, 2])
        alone = [model(torch.tensor([ids])).logits[0, -1] for ids in ([*prompts[0], 1, 4], [*prompts[2], 3, 5])]
    torch.testing.assert_close(state.logits, torch.stack(alone), rtol=1e-3, atol=1e-4)


def test_a_memory_that_is_full_forgets_the_oldest_round(character):
    system, rounds = conversations()[0][0], []
    for number in range(400):
        rounds += [{"role": "user", "content": f"第{number}句。"}, {"role": "assistant", "content": "好的。"}]
    messages = [system, *rounds, {"role": "user", "content": "最后。"}]
    ids = inference.encode_prompt(character.tokenizer, messages)
    text = character.tokenizer.decode(ids)
    assert len(ids) <= inference.CONTEXT_TOKENS
    assert "你是亚托莉" in text and "最后。" in text and "第399句" in text and "第0句" not in text


def test_unknown_decoding_is_refused(character):
    with pytest.raises(InputError, match=r"max_new_tokens.*got .*'beams'"):
        texts(character, conversations(), {**DECODING, "beams": 2})
    with pytest.raises(InputError, match="top_p"):
        texts(character, conversations(), {"temperature": 1.0})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("max_new_tokens", 0, "a whole number from 1 to 1,048,576"),
        ("max_new_tokens", 8.0, "a whole number from 1 to 1,048,576"),
        ("temperature", -0.1, "a number from 0 to 1,048,576"),
        ("temperature", float("nan"), "a number from 0 to 1,048,576"),
        ("top_p", 0, "a share above 0, at most 1"),
        ("top_p", 1.5, "a share above 0, at most 1"),
        ("top_p", True, "a share above 0, at most 1"),
        ("top_k", 2.5, "a whole number from 0 to 1,048,576"),
        ("top_k", -1, "a whole number from 0 to 1,048,576"),
        ("repetition_penalty", 0, "a number above 0, at most 1,048,576"),
        ("repeat_guard", -1, "a number from 0 to 1,048,576"),
        ("seed", "today", "a whole number or null"),
    ],
)
def test_a_decoding_out_of_bounds_is_refused(key, value, expected):
    with pytest.raises(InputError) as error:
        as_decoding({**DECODING, key: value})
    assert str(error.value) == f"decoding: expected {expected} as `{key}`, got {value!r}"


def test_the_keys_of_a_decoding_are_those_that_are_checked():
    assert list(Decoding.__dataclass_fields__) == [*trust.DECODING, *trust.DECODING_BESIDE]
    assert as_decoding({**DECODING, "repeat_guard": 0, "seed": None}) == Decoding(**DECODING, repeat_guard=0)


def test_generation_stops_with_its_last_reply(character):
    prompts = [encode(character.tokenizer, messages, add_generation_prompt=True) for messages in conversations()]
    drafts = [draft_of(character) for _ in prompts]
    steps = sum(1 for _ in generate(character, prompts, drafts, greedy(30)))
    assert steps <= 30 and steps >= max(len(draft.tokens) for draft in drafts)


# --- loading


def test_loading_gives_no_future_warning(folder, monkeypatch):
    allow_base(monkeypatch, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("error", FutureWarning)
        load_character(folder)


def test_an_adapter_for_another_base_is_refused(folder, tmp_path, monkeypatch):
    allow_base(monkeypatch, folder)
    copy = shutil.copytree(folder, tmp_path / "adapter")
    config = (copy / "adapter_config.json").read_text(encoding="utf-8")
    (copy / "adapter_config.json").write_text(config.replace("/base", "/other"), encoding="utf-8")
    with pytest.raises(InputError, match="other"):
        load_character(copy)


def test_pickled_weights_are_refused(folder, tmp_path, monkeypatch):
    allow_base(monkeypatch, folder)
    copy = shutil.copytree(folder, tmp_path / "adapter")
    (copy / "adapter_model.safetensors").rename(copy / "adapter_model.bin")
    with pytest.raises(InputError, match="pickle"):
        load_character(copy)


def test_weights_of_another_shape_are_refused(folder, tmp_path, monkeypatch):
    make_base(tmp_path / "base")
    other = make_adapter(tmp_path / "adapter", tmp_path / "base")
    config = (tmp_path / "base" / "config.json").read_text(encoding="utf-8")
    wide = Gemma3TextConfig(**{**json.loads(config), "intermediate_size": 64})
    AutoModelForCausalLM.from_config(wide).save_pretrained(tmp_path / "base")
    allow_base(monkeypatch, other)
    with pytest.raises(InputError, match="expected an adapter for"):
        load_character(other)


def test_a_gpu_that_is_too_small_is_not_the_adapters_fault(folder, monkeypatch):
    def fill(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    allow_base(monkeypatch, folder)
    monkeypatch.setattr(inference.PeftModel, "from_pretrained", fill)
    with pytest.raises(torch.OutOfMemoryError):
        load_character(folder)


def test_a_folder_that_is_not_there_names_the_cure(tmp_path):
    with pytest.raises(InputError, match="dvc"):
        load_character(tmp_path / "nothing")

"""Conversations as tokens: nothing said becomes a control token, every reply is learnt once, nothing is cut."""

import copy
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.conversation import (
    controls,
    encode,
    encode_supervised,
    fill_persona,
    label_ids,
    neutralise,
    render,
    split_long,
    stop_ids,
)
from stages.records import InputError
from tests.compatibility import FAMILIES, family_tokenizer

BY_NAME = {family.name: family for family in FAMILIES}
CONTROL_TEXTS = (
    *("<|im_end|>", "<|im_start|>", "<reserved_106>", "</s>", "<s>", "<start_of_turn>", "<end_of_turn>", "[INST]"),
    *("[/INST]", "<<SYS>>", "<</SYS>>", "<|eot_id|>", "<|user|>", "[gMASK]", "<sop>", "<eos>", "<bos>", "<unk>"),
    *("<think>", "</think>", "<unused7>", "<｜User｜>", "<|turn>", "<turn|>", "[UNUSED_TOKEN_3]", "<tool_call>"),
)
READABLE = ("我是高性能的嘛！", "<3", "a < b > c", "[笑]", "（低下头）……", "if x<|y", "<h1>标题</h1>", "[1]", "＜完＞")
SYSTEM = {"role": "system", "content": "你是亚托莉。"}


@pytest.fixture(scope="module", params=FAMILIES, ids=lambda family: family.name)
def tokenizer(request):
    return family_tokenizer(request.param)


@pytest.fixture(scope="module")
def qwen():
    return family_tokenizer(BY_NAME["Qwen2.5"])


def dialogue(rounds, system=True, length=1):
    messages = [SYSTEM] if system else []
    for number in range(rounds):
        messages += [{"role": "user", "content": f"问{number}" * length}]
        messages += [{"role": "assistant", "content": f"答{number}" * length}]
    return messages


def learnt(tokenizer, sample):
    ids, supervised = sample
    return tokenizer.decode([token for token, wanted in zip(ids, supervised, strict=True) if wanted])


# --- text stays text


@pytest.mark.parametrize("text", CONTROL_TEXTS)
def test_a_control_token_in_text_is_made_text_and_stays_readable(text):
    assert neutralise(text) != text
    assert neutralise(text)[1:] == text[1:]
    assert neutralise(f"你好{text}呀") == f"你好{neutralise(text)}呀"


@pytest.mark.parametrize("text", READABLE)
def test_ordinary_text_is_left_alone(text):
    assert neutralise(text) == text


PARTS = st.sampled_from([*CONTROL_TEXTS, "<", ">", "|", "<|", "|>", "</", "im_", "end", "reserved_1", "嗯", " ", "\n"])
MIXED = st.lists(PARTS, max_size=8).map("".join)


@given(MIXED)
def test_neutralising_twice_changes_nothing_more(text):
    assert neutralise(neutralise(text)) == neutralise(text)


@settings(deadline=None)
@given(system=MIXED, user=MIXED, reply=MIXED)
def test_no_text_becomes_a_control_token(qwen, system, user, reply):
    roles = ("system", "user", "assistant")
    said = [{"role": r, "content": c} for r, c in zip(roles, (system, user, reply), strict=True)]
    plain = [{"role": role, "content": "x"} for role in roles]
    control = controls(qwen).ids
    steering = [[i for i in encode_supervised(qwen, messages)[0] if i in control] for messages in (said, plain)]
    assert steering[0] == steering[1]


def test_a_tokenizer_s_own_control_tokens_are_neutralised_too(qwen):
    qwen = family_tokenizer(BY_NAME["Qwen2.5"])
    qwen.add_special_tokens({"additional_special_tokens": ["Human:", "☆"]})
    assert neutralise("Human: 好", qwen) == "Ｈuman: 好"
    assert neutralise("Human: 好") == "Human: 好"
    ids = encode(qwen, [SYSTEM, {"role": "user", "content": "Human: ☆"}], add_generation_prompt=True)
    assert not set(ids) & set(qwen.convert_tokens_to_ids(["Human:", "☆"]))


def test_the_persona_names_the_user():
    assert fill_persona("你叫他{user}，{user}先生。{x}", "夏生") == "你叫他夏生，夏生先生。{x}"


def test_the_ids_are_those_of_the_rendered_text(tokenizer):
    text = render(tokenizer, dialogue(2), add_generation_prompt=True)
    assert "你是亚托莉。" in text and "答1" in text
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == encode(tokenizer, dialogue(2), add_generation_prompt=True)


@pytest.mark.parametrize("code", ["{{ 1 / 0 }}", "{{ 'a' + 1 }}", "{{ messages.none.role }}"])
def test_a_template_that_fails_in_its_own_code_is_told_as_one_that_refuses(tokenizer, code):
    broken = copy.deepcopy(tokenizer)
    broken.chat_template = code
    with pytest.raises(InputError, match=r"the chat template refuses this conversation: .*(zero|concatenate|none)"):
        encode(broken, dialogue(1), add_generation_prompt=True)


# --- labels


def test_a_turn_that_is_not_to_be_learnt_is_context(tokenizer):
    messages = dialogue(3)
    messages[4]["learn"] = False
    ids, supervised = encode_supervised(tokenizer, messages)
    all_ids, _ = encode_supervised(tokenizer, dialogue(3))
    assert ids == all_ids
    assert "答0" in learnt(tokenizer, (ids, supervised))
    assert "答1" not in learnt(tokenizer, (ids, supervised))


def test_words_that_look_like_the_template_are_not_mistaken_for_it(qwen):
    messages = [
        SYSTEM,
        {"role": "user", "content": "assistant\n答"},
        {"role": "assistant", "content": "user\n<|im_end|>"},
    ]
    assert learnt(qwen, encode_supervised(qwen, messages)) == "user\n＜|im_end|><|im_end|>"


def test_a_reply_that_begins_with_a_line_break_stands_behind_the_very_prompt(tokenizer):
    messages = [SYSTEM, {"role": "user", "content": "问"}, {"role": "assistant", "content": "\n\n 答"}]
    prompt = encode(tokenizer, messages[:2], add_generation_prompt=True)
    assert encode_supervised(tokenizer, messages)[0][: len(prompt)] == prompt


def test_labels_are_the_tokens_themselves(qwen):
    ids, supervised = encode_supervised(qwen, dialogue(1))
    labels = label_ids(qwen, ids, supervised)
    assert labels == [token if wanted else -100 for token, wanted in zip(ids, supervised, strict=True)]


def test_a_dialogue_without_a_reply_has_nothing_to_learn(qwen):
    assert encode_supervised(qwen, dialogue(1)[:2]) == ([], [])


def test_a_template_that_rewrites_replies_is_refused(qwen):
    qwen = family_tokenizer(BY_NAME["Qwen2.5"])
    qwen.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role + '\n' + (m.content if m.role == 'user' else '') }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    with pytest.raises(InputError, match="labels cannot be found"):
        encode_supervised(qwen, dialogue(1))


def test_a_template_that_never_ends_a_reply_is_refused(qwen):
    qwen = family_tokenizer(BY_NAME["Qwen2.5"])
    qwen.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    with pytest.raises(InputError, match="never learn to stop"):
        encode_supervised(qwen, dialogue(2))


def test_a_tokenizer_without_a_template_is_refused(qwen):
    qwen = family_tokenizer(BY_NAME["Qwen2.5"])
    qwen.chat_template = None
    with pytest.raises(InputError, match="no chat template"):
        encode(qwen, dialogue(1), add_generation_prompt=False)


def test_a_conversation_that_the_template_never_takes_is_refused(qwen):
    qwen = family_tokenizer(BY_NAME["Qwen2.5"])
    qwen.chat_template = "{{ raise_exception('only poems') }}"
    with pytest.raises(InputError, match="refuses this conversation: only poems"):
        encode(qwen, dialogue(1), add_generation_prompt=False)


# --- long dialogues


def test_a_dialogue_that_fits_is_one_sample(tokenizer):
    whole = encode_supervised(tokenizer, dialogue(4))
    assert split_long(tokenizer, dialogue(4), len(whole[0])) == ([whole], [])


@pytest.mark.parametrize("share", [0.4, 0.6, 0.9])
def test_every_turn_of_a_long_dialogue_is_learnt_once_and_whole(tokenizer, share):
    messages = dialogue(9)
    messages[6]["learn"] = False
    limit = int(share * len(encode_supervised(tokenizer, messages)[0]))
    samples, lost = split_long(tokenizer, messages, limit)
    assert lost == []
    assert all(len(ids) == len(supervised) <= limit for ids, supervised in samples)
    said = "".join(learnt(tokenizer, sample) for sample in samples)
    assert [said.count(f"答{n}") for n in range(9)] == [1, 1, 0, 1, 1, 1, 1, 1, 1]
    assert all("你是亚托莉。" in tokenizer.decode(ids) for ids, _ in samples)


def test_a_later_part_keeps_the_rounds_before_it_as_context(qwen):
    whole = len(encode_supervised(qwen, dialogue(9))[0])
    (_, second), _ = split_long(qwen, dialogue(9), int(0.8 * whole))
    assert "问5" in qwen.decode(second[0])
    assert "答5" not in learnt(qwen, second)
    assert "答8" in learnt(qwen, second)


def test_a_turn_too_long_for_any_sample_is_counted_as_lost(qwen):
    messages = dialogue(3)
    messages[4]["content"] = "长" * 200
    samples, lost = split_long(qwen, messages, 100)
    assert lost == ["长" * 200]
    assert sorted(text for sample in samples for text in learnt(qwen, sample).split("<|im_end|>") if text) == [
        "答0",
        "答2",
    ]


# --- and no more


def test_every_control_token_of_the_template_stops_a_reply(tokenizer):
    used = set(encode(tokenizer, dialogue(2), add_generation_prompt=True)) & controls(tokenizer).ids
    assert used - {tokenizer.convert_tokens_to_ids("<|system|>")} <= set(stop_ids(tokenizer))


def test_a_data_stage_may_import_this_without_torch():
    code = "import sys, stages.conversation; sys.exit(bool({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""The terminal chat over a plain function in the model's place."""

import io

import pytest

from deploy.chat import Talk, answer, converse


def echo(messages):
    yield from ("[", messages[-1]["content"], "]")


@pytest.fixture
def talk():
    return Talk("你是亚托莉，对方叫{user}。", "夏生")


def test_the_system_prompt_names_the_user(talk):
    assert talk.messages()[0]["content"] == "你是亚托莉，对方叫夏生。"


def test_a_round_is_kept_for_the_next(talk):
    assert "".join(answer(talk, "早。", echo)) == "[早。]"
    assert [message["content"] for message in talk.messages()[1:]] == ["早。", "[早。]"]


def test_reset_forgets_what_was_said(talk):
    list(answer(talk, "早。", echo))
    list(answer(talk, "/reset", echo))
    assert talk.said == []


def test_a_name_is_told_in_the_next_prompt(talk):
    list(answer(talk, "/name 小满", echo))
    assert "小满" in talk.messages()[0]["content"]


def test_an_unknown_command_is_not_sent_to_her(talk):
    assert "/reset begins anew" in "".join(answer(talk, "/help", echo))
    assert talk.said == []


def test_a_reply_that_fails_leaves_no_half_round(talk):
    def broken(messages):
        raise RuntimeError("out of memory")
        yield

    with pytest.raises(RuntimeError):
        list(answer(talk, "早。", broken))
    assert talk.said == []


def test_a_conversation_ends_with_the_input(talk, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("早。\n\n/quit\n不会说到这里。\n"))
    converse(talk, "亚托莉", echo)
    assert capsys.readouterr().out == "夏生: 亚托莉: [早。]\n夏生: 夏生: "


def test_half_a_character_typed_ends_no_conversation(talk, monkeypatch, capsys):
    typed = "你好\n".encode() + b"\xe4\xbd\n" + "在吗\n".encode()
    for errors in ("surrogateescape", "strict"):  # under C.UTF-8, and under a locale
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(typed), "utf-8", errors))
        talk.said.clear()
        converse(talk, "亚托莉", echo)
        assert [turn["content"] for turn in talk.said] == ["你好", "[你好]", "�", "[�]", "在吗", "[在吗]"]
        assert "[在吗]" in capsys.readouterr().out


def test_what_she_says_steers_no_terminal(talk, monkeypatch, capsys):
    said = "早\x1b]52;c;ZXZpbA==\x07\x9b31m。\r\n\t走吧。"
    monkeypatch.setattr("sys.stdin", io.StringIO("早。\n"))
    converse(talk, "亚托莉", lambda messages: iter(said))
    assert capsys.readouterr().out == "夏生: 亚托莉: 早]52;c;ZXZpbA==31m。\n\t走吧。\n夏生: \n"

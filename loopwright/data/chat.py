"""Conversations as tokens.

What a person wrote never turns into a special token: a user who types `<|assistant|>` has typed thirteen
characters, not ended a turn.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from loopwright.data.tokenizer import ASSISTANT, USER, bos_prefix, encode_rendered, encode_text, encode_texts
from loopwright.errors import ModelError
from loopwright.schemas import Message

# <|user|>question<|assistant|>answer<|end|>; a system message stands before the first turn as plain text.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ '<|assistant|>' + message['content'] + eos_token }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>' + message['content'] }}"
    "{% else %}{{ message['content'] }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
PLAIN_SEPARATOR = "\n\n"  # between the messages of a model that has no chat template


class Example(NamedTuple):
    prompt_ids: list[int]
    response_ids: list[int]  # EOS included

    @property
    def length(self) -> int:
        """Tokens of both."""
        return len(self.prompt_ids) + len(self.response_ids)


def ensure_chat_template(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Store our template with a tokenizer that has none. Returns the special tokens it lacked, now added.

    The model needs rows for added tokens.
    """
    if tokenizer.chat_template is not None:
        return []
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in (USER, ASSISTANT) if token not in vocabulary]
    tokenizer.add_special_tokens({"extra_special_tokens": [USER, ASSISTANT]}, replace_extra_special_tokens=False)
    tokenizer.chat_template = CHAT_TEMPLATE
    return missing


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[Message]], answers: Sequence[str]
) -> list[Example]:
    """Prompts with their answers, as the policy will see and write them."""
    return [
        Example(*ids)
        for ids in zip(render_prompts(tokenizer, prompts), render_responses(tokenizer, answers), strict=True)
    ]


def render_prompt(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Token ids of one prompt; see `render_prompts`."""
    return render_prompts(tokenizer, [messages])[0]


def render_prompts(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Token ids up to where the answer starts, for each prompt; many at once are faster.

    With a chat template: that, ending in its generation prompt. Without: the contents as plain text, which
    the model continues.

    Raises:
        ModelError: the template refuses these messages (some know no system role).
    """
    if tokenizer.chat_template is None:
        start = bos_prefix(tokenizer)
        texts = [PLAIN_SEPARATOR.join(message.content for message in messages) for messages in prompts]
        return [start + ids for ids in encode_texts(tokenizer, texts)]
    special = special_token_texts(tokenizer)
    hostile = [any(token in message.content for token in special for message in messages) for messages in prompts]
    friendly = [messages for messages, bad in zip(prompts, hostile, strict=True) if not bad]
    rendered = iter(encode_rendered(tokenizer, [_rendered(tokenizer, m, [x.content for x in m]) for m in friendly]))
    return [_with_stand_ins(tokenizer, m) if bad else next(rendered) for m, bad in zip(prompts, hostile, strict=True)]


def _with_stand_ins(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message]) -> list[int]:
    """Somebody wrote the text of a special token: render with stand-ins, and tokenize what they stand for apart."""
    stand_ins = [f"\ue000{i}\ue001" for i in range(len(messages))]
    ids: list[int] = []
    for piece in re.split("(\ue000\\d+\ue001)", _rendered(tokenizer, messages, stand_ins)):
        if piece in stand_ins:
            ids += encode_text(tokenizer, messages[stand_ins.index(piece)].content)
        elif piece:
            ids += encode_rendered(tokenizer, [piece])[0]
    return ids


def conditioned(messages: Sequence[Message], condition: str) -> tuple[Message, ...]:
    """The conversation under a condition, which stands first as system text; the empty one leaves it as it is.

    A system message that is there already follows it in the same message: templates know of one alone.
    """
    if not condition:
        return tuple(messages)
    if messages[0].role == "system":
        return (Message(role="system", content=condition + messages[0].content), *messages[1:])
    return (Message(role="system", content=condition), *messages)


def render_responses(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of answers; EOS, the last token of each, is part of it."""
    return [[*ids, tokenizer.eos_token_id] for ids in encode_texts(tokenizer, texts)]


def prompt_text(messages: Sequence[Message]) -> str:
    """The text of a single message; of a conversation, its messages one a line, each after its role."""
    if len(messages) == 1:
        return messages[0].content
    return "\n".join(f"{message.role}: {message.content}" for message in messages)


def special_token_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The spellings that tokenizing turns into special tokens."""
    return sorted({str(token) for token in tokenizer.added_tokens_decoder.values() if token.special})


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], contents: Sequence[str]) -> str:
    turns = [{"role": message.role, "content": text} for message, text in zip(messages, contents, strict=True)]
    try:
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
    except Exception as error:  # templates are programs of other people, and raise what they like
        roles = ", ".join(message.role for message in messages)
        raise ModelError(
            f"the tokenizer's chat template refuses a conversation of roles {roles} ({error}); "
            "change the messages, or the tokenizer's chat_template"
        ) from error

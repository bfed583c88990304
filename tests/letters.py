"""A policy that writes a few letters: all that it can say can be listed, with its probability."""

import torch
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from loopwright.data.chat import render_prompt
from loopwright.models.loading import LlamaShape, load_causal_lm, load_tokenizer, new_llama
from loopwright.models.tokens import forbidden_token_ids
from tests.tiny import saved

LETTERS = "abcd"


def letters_model(folder):
    """The folder of a policy that writes letters, some likelier than others, and EOS."""
    alphabet = Tokenizer(models.BPE({letter: i for i, letter in enumerate(LETTERS)}, []))
    alphabet.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=alphabet, eos_token="<|end|>", pad_token="<|pad|>")
    size = dict(hidden_size=16, intermediate_size=32, layers=1, heads=2)
    shape = LlamaShape(**size, initializer_range=0.2, tie_embeddings=False)
    return saved(new_llama(shape, tokenizer, seed=0), tokenizer, folder)


def distribution(folder, asked, max_new_tokens):
    """Every response there is to a prompt, and its probability under the policy of a folder, [N] float64."""
    tokenizer, policy = load_tokenizer(folder), load_causal_lm(folder)
    prompt, letters = render_prompt(tokenizer, asked.messages), tokenizer.convert_tokens_to_ids(list(LETTERS))
    forbidden = forbidden_token_ids(tokenizer, policy.config.vocab_size)
    finished, unfinished = {}, {"": torch.tensor(1.0).double()}
    for _ in range(max_new_tokens):
        rows = torch.tensor([prompt + tokenizer.convert_tokens_to_ids(list(text)) for text in unfinished])
        logits = policy(rows).logits[:, -1].detach().double()
        following = logits.index_fill(1, forbidden, -torch.inf).softmax(1)
        reached = list(zip(unfinished.items(), following, strict=True))
        finished |= {text: share * after[tokenizer.eos_token_id] for (text, share), after in reached}
        unfinished = {
            text + letter: share * after[i]
            for (text, share), after in reached
            for letter, i in zip(LETTERS, letters, strict=True)
        }
    everything = finished | unfinished
    return list(everything), torch.stack(list(everything.values()))

"""Random tokenizers and models of the families people bring, small enough to test with."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    RobertaConfig,
    RobertaModel,
)

FAMILIES = ("llama", "qwen2", "gpt2")
KNOWN = (*FAMILIES, "llama3", "qwen3", "mistral", "gpt_neox", "gpt_neox_serial")  # those that `Decoder` reads
STRETCHED = ("linear", "yarn")  # Llamas whose positions are scaled in other ways than llama3's
CHANGED_LOGITS = ("gemma2", "granite")  # families that cap or scale what the LM head gives
CONTEXT = 64


def tiny_tokenizer(*, pad: bool = True, eos: bool = True) -> PreTrainedTokenizerFast:
    """One token a byte, and the special tokens of a chat."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|end|>"} if eos else {}
    special |= {"pad_token": "<|pad|>"} if pad else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, extra_special_tokens=["<|user|>", "<|assistant|>"], **special
    )


def tiny_model(family: str, *, seed: int = 0, vocab_size: int = 260, scale: float = 4.0) -> PreTrainedModel:  # noqa: C901
    """A random model, with dropout where it can have it, whose distributions are far from uniform."""
    shape = dict(vocab_size=vocab_size, pad_token_id=None, eos_token_id=256, bos_token_id=None)
    llama_shape = dict(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if family == "llama":
            model = LlamaForCausalLM(LlamaConfig(**shape, **llama_shape, attention_dropout=0.1))
        elif family == "qwen2":
            model = Qwen2ForCausalLM(Qwen2Config(**shape, **llama_shape, tie_word_embeddings=True))
        elif family == "gpt2":
            model = GPT2LMHeadModel(GPT2Config(**shape, n_embd=16, n_layer=2, n_head=4, n_positions=CONTEXT))
        elif family == "llama3":  # stretched positions, biases
            rope = dict(rope_type="llama3", rope_theta=1e4, factor=4.0, low_freq_factor=1.0, high_freq_factor=4.0)
            rope["original_max_position_embeddings"] = CONTEXT // 2
            config = LlamaConfig(**shape, **llama_shape, rope_parameters=rope, attention_bias=True, mlp_bias=True)
            model = LlamaForCausalLM(config)
        elif family in STRETCHED:
            stretch = dict(rope_type=family, rope_theta=1e4, factor=4.0)
            stretch |= dict(original_max_position_embeddings=CONTEXT // 4) if family == "yarn" else {}
            model = LlamaForCausalLM(LlamaConfig(**shape, **llama_shape, rope_parameters=stretch))
        elif family == "qwen3":
            model = Qwen3ForCausalLM(Qwen3Config(**shape, **llama_shape, head_dim=8))
        elif family == "mistral":
            model = MistralForCausalLM(MistralConfig(**shape, **llama_shape, sliding_window=None))
        elif family in ("gpt_neox", "gpt_neox_serial"):
            neox_shape = {name: size for name, size in llama_shape.items() if name != "num_key_value_heads"}
            parallel = family == "gpt_neox"
            rotary = dict(rope_type="default", rope_theta=1e4, partial_rotary_factor=0.5)
            neox = GPTNeoXConfig(**shape, **neox_shape, use_parallel_residual=parallel, rope_parameters=rotary)
            model = GPTNeoXForCausalLM(neox)
        elif family == "gemma2":
            capped = Gemma2Config(
                **shape, **llama_shape, head_dim=4, final_logit_softcapping=3.0, attn_logit_softcapping=None
            )
            model = Gemma2ForCausalLM(capped)
        elif family == "granite":
            model = GraniteForCausalLM(GraniteConfig(**shape, **llama_shape, logits_scaling=4.0))
        else:
            raise ValueError(family)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 2:
                    parameter.mul_(scale)
                elif family not in FAMILIES:  # biases and norms that do something
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model.float().eval()


def saved(model: nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path) -> Path:
    """The folder, written by transformers itself."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Elsewhere(torch.Tensor):
    """Stands for a tensor on a GPU: until it is moved it can be combined with nothing."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function not in (torch.Tensor.cpu, torch.Tensor.to):
            raise RuntimeError(f"{function.__name__} of a tensor on another device")
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {})).as_subclass(torch.Tensor)


def saved_encoder(family: str, folder: Path) -> Path:
    """A folder with a random BERT or RoBERTa, which read bytes, without a head."""
    names = {"bert": ("[CLS]", "[SEP]", "[PAD]"), "roberta": ("<s>", "</s>", "<pad>")}[family]
    tokenizer = tiny_tokenizer(eos=False, pad=False).backend_tokenizer
    tokenizer.add_special_tokens(list(names))
    start, end, pad = names
    middle = f"{end} {end}" if family == "roberta" else end
    second = 0 if family == "roberta" else 1
    tokenizer.post_processor = TemplateProcessing(
        single=f"{start} $A {end}",
        pair=f"{start} $A {middle} $B:{second} {end}:{second}",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in (start, end)],
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, cls_token=start, sep_token=end, pad_token=pad)
    shape = dict(vocab_size=len(fast), hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24)
    places = 400 if family == "roberta" else CONTEXT  # RoBERTa counts from after the number of its padding
    shape |= dict(max_position_embeddings=places, pad_token_id=fast.pad_token_id, initializer_range=0.3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if family == "roberta":
            model: PreTrainedModel = RobertaModel(RobertaConfig(**shape, type_vocab_size=1))
        else:
            model = BertModel(BertConfig(**shape))
    return saved(model, fast, folder)

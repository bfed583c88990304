"""The families whose layers we know, by the names of their parts. Another family of the same kind is a line here."""

from __future__ import annotations

from typing import Any, NamedTuple


class Names(NamedTuple):
    """Where a family keeps its parts: paths from the body, and from a block."""

    blocks: str
    embeddings: str
    final_norm: str
    attention: str
    attention_norm: str
    queries_keys_values: tuple[str, ...]  # three linear layers, or one that gives all
    output: str
    mlp_norm: str
    up: str
    down: str
    gate: str | None = None  # a gated MLP: activation(gate) * up
    activation: str = "mlp.act"
    query_norm: str | None = None  # of each head, before positions
    key_norm: str | None = None
    positions: str | None = None  # learned positions; without them: rotary ones
    by_head: bool = False  # the one linear layer gives query, key and value of the first head, then of the second


_LLAMA = Names(
    blocks="layers",
    embeddings="embed_tokens",
    final_norm="norm",
    attention="self_attn",
    attention_norm="input_layernorm",
    queries_keys_values=("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    output="self_attn.o_proj",
    mlp_norm="post_attention_layernorm",
    gate="mlp.gate_proj",
    up="mlp.up_proj",
    down="mlp.down_proj",
    activation="mlp.act_fn",
)
FAMILIES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA._replace(query_norm="self_attn.q_norm", key_norm="self_attn.k_norm"),
    "gpt2": Names(
        blocks="h",
        embeddings="wte",
        positions="wpe",
        final_norm="ln_f",
        attention="attn",
        attention_norm="ln_1",
        queries_keys_values=("attn.c_attn",),
        output="attn.c_proj",
        mlp_norm="ln_2",
        up="mlp.c_fc",
        down="mlp.c_proj",
    ),
    "gpt_neox": Names(
        blocks="layers",
        embeddings="embed_in",
        final_norm="final_layer_norm",
        attention="attention",
        attention_norm="input_layernorm",
        queries_keys_values=("attention.query_key_value",),
        output="attention.dense",
        mlp_norm="post_attention_layernorm",
        up="mlp.dense_h_to_4h",
        down="mlp.dense_4h_to_h",
        by_head=True,
    ),
}
ROTARY = ("default", "linear", "llama3", "yarn")  # kinds whose frequencies do not follow the length of the text


def names_of(body: Any) -> Names | str:
    """Where the body of a transformers model keeps its parts, or in a few words why only transformers can run it."""
    config = body.config
    kind = config.model_type
    names = FAMILIES.get(kind)
    if names is None:
        return f"{kind} models are not among {', '.join(FAMILIES)}"
    for module in body.modules():
        if not type(module).__module__.startswith(("torch.nn.", "peft.", "transformers.")):
            return f"{type(module).__name__} is not transformers' own"
        if module._forward_hooks or module._forward_pre_hooks:
            return f"a hook on {type(module).__name__} may change what it computes"
    window = getattr(config, "sliding_window", None)
    if window is not None and window < config.max_position_embeddings and _slides(config):
        return f"its layers see a window of {window} tokens"
    if names.positions is None and (rope := getattr(body.rotary_emb, "rope_type", "default")) not in ROTARY:
        return f"its rotary positions are of the type {rope}"
    if getattr(config, "add_cross_attention", False):
        return "it has cross-attention"
    return names


def _slides(config: Any) -> bool:
    kinds = getattr(config, "layer_types", None)
    return kinds is None or any(kind != "full_attention" for kind in kinds)

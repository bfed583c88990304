import pytest
import torch
from torch.testing import assert_close

from loopwright.kernels.functions import Rows
from loopwright.models.decoder import Decoder, Tokens
from loopwright.models.heads import reward_model_from
from loopwright.models.trainable import LoRAConfig, TrainableConfig, make_trainable
from tests.tiny import KNOWN, STRETCHED, tiny_model

LENGTHS = [7, 19, 1, 12]


def batch():
    ids = torch.randint(0, 256, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))
    return Tokens(ids, Rows.of(torch.tensor(LENGTHS)), torch.cat([torch.arange(length) for length in LENGTHS]))


def hidden_states(model, tokens):
    """By transformers, a row at a time."""
    rows = tokens.ids.split(LENGTHS)
    return torch.cat([model.base_model(row[None]).last_hidden_state[0] for row in rows])


@pytest.fixture(params=["c", "torch", "onednn"])
def operations(request):
    if request.param != "c":
        request.getfixturevalue({"torch": "kernels_in_torch", "onednn": "products_packed"}[request.param])


@pytest.mark.usefixtures("operations")
@pytest.mark.parametrize("family", [*KNOWN, *STRETCHED])
def test_hidden_states_and_gradients_are_those_of_transformers(family):
    model, tokens = tiny_model(family), batch()
    decoder = Decoder.of(model)
    theirs, ours = hidden_states(model, tokens), decoder.read(tokens)
    assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    grad = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1))
    parameters = list(model.base_model.parameters())
    for a, b in zip(*(torch.autograd.grad(x, parameters, grad) for x in (ours, theirs)), strict=True):
        assert_close(a, b, atol=1e-5 * float(b.abs().max()) + 1e-7, rtol=1e-4)


@pytest.mark.parametrize("family", KNOWN)
def test_tokens_that_are_not_asked_for_are_left_out(family):
    model, tokens = tiny_model(family), batch()
    at = torch.rand(sum(LENGTHS), generator=torch.Generator().manual_seed(0)) < 0.3
    decoder = Decoder.of(model)
    assert_close(decoder.read(tokens, at), decoder.read(tokens)[at], atol=1e-5, rtol=1e-5)


def test_a_classifier_has_the_same_body():
    model, tokens = reward_model_from(tiny_model("llama"), seed=0), batch()
    assert_close(Decoder.of(model).read(tokens), hidden_states(model, tokens), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters_are_applied_and_learn(family):
    model = make_trainable(tiny_model(family), TrainableConfig(mode="lora", lora=LoRAConfig(r=2)), seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    tokens = batch()
    theirs, ours = hidden_states(model.get_base_model(), tokens), Decoder.of(model).read(tokens)
    assert_close(ours, theirs, atol=2e-5, rtol=1e-5)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    grad = torch.randn(theirs.shape, generator=torch.Generator().manual_seed(1))
    for a, b in zip(*(torch.autograd.grad(x, trained, grad) for x in (ours, theirs)), strict=True):
        assert_close(a, b, atol=5e-5 * float(b.abs().max()), rtol=1e-4)


@pytest.mark.usefixtures("operations")
def test_positions_beyond_the_context_are_computed_as_transformers_does():
    model, ids = tiny_model("llama"), torch.arange(80)
    tokens = Tokens(ids, Rows.of(torch.tensor([80])), torch.arange(80))
    theirs = model.base_model(ids[None]).last_hidden_state[0]
    assert_close(Decoder.of(model).read(tokens), theirs, atol=2e-5, rtol=1e-5)


def refused(change):
    model = tiny_model("mistral" if "sliding_window" in change else "llama")
    for name, value in change.items():
        setattr(model.config, name, value)
    return Decoder.of(model)


def test_what_it_does_not_know_it_refuses_with_a_reason():
    assert "gemma2 models are not among llama" in Decoder.of(tiny_model("gemma2"))
    assert refused({"sliding_window": 8}) == "its layers see a window of 8 tokens"
    assert isinstance(refused({"sliding_window": 4096}), Decoder)
    model = tiny_model("llama")
    model.model.rotary_emb.rope_type = "dynamic"
    assert Decoder.of(model) == "its rotary positions are of the type dynamic"
    model = tiny_model("llama")
    model.model.norm = torch.nn.Identity()
    assert Decoder.of(model) == "its norms or embeddings are of the type Identity"
    model.model.__class__ = type("LlamaModel", (type(model.model),), {"__module__": "someone.elses"})
    assert Decoder.of(model) == "LlamaModel is not transformers' own"
    model = tiny_model("llama")
    model.model.layers[0].mlp.down_proj.register_forward_hook(lambda *_: None)
    assert Decoder.of(model) == "a hook on Linear may change what it computes"

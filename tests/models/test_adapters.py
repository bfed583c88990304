import pytest
import safetensors.torch
import torch
from torch.testing import assert_close

from loopwright.errors import ModelError
from loopwright.models.adapters import FILE, over_base, save_adapters
from loopwright.models.forward import can_run_at_once
from loopwright.models.heads import reward_model_from, scores_at_last_token
from loopwright.models.loading import load_reward_model, save_model
from loopwright.models.sharing import resident_bytes, share_frozen
from loopwright.models.trainable import LoRAConfig, TrainableConfig, make_trainable, trainable_parameters
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer

IDS = torch.tensor([[3, 17, 250, 41, 9, 77], [5, 6, 7, 8, 9, 10]])


def scores(model):
    with torch.no_grad():
        return scores_at_last_token(model, IDS, torch.ones_like(IDS))


def trained(folder, family="llama", **settings):
    """A reward model trained with LoRA over the policy, as the reward stage saves it."""
    lora = LoRAConfig(r=2, **settings)
    model = make_trainable(
        reward_model_from(tiny_model(family), seed=0), TrainableConfig(mode="lora", lora=lora), seed=0
    )
    with torch.no_grad():
        for _, parameter in trainable_parameters(model):
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    save_model(model, tiny_tokenizer(), folder)
    save_adapters(model, lora, folder)
    return load_reward_model(folder)


@pytest.mark.parametrize(
    "settings", [{}, {"bias": "all"}, {"dropout": 0.1}, {"alpha": 3, "targets": ("up_proj", "c_fc")}], ids=str
)
@pytest.mark.parametrize("family", FAMILIES)
def test_over_its_base_it_scores_as_before(family, settings, tmp_path):
    reward, policy = trained(tmp_path, family, **settings), tiny_model(family).requires_grad_(False)
    found = over_base(reward, tmp_path, policy)
    assert_close(scores(found), scores(reward), atol=1e-3, rtol=1e-4)
    share_frozen(found, policy)
    assert resident_bytes([found, policy]) < 0.75 * resident_bytes([reward, policy])
    assert not trainable_parameters(found) and can_run_at_once(found)


def test_it_stays_merged_where_its_base_is_not_the_policys(tmp_path):
    reward, other = trained(tmp_path), tiny_model("llama")
    with torch.no_grad():
        other.model.layers[1].mlp.up_proj.weight[0, 0] += 0.5
    assert over_base(reward, tmp_path, other) == "its adapters were trained over other weights than the policy's"
    assert (
        over_base(reward, tmp_path, tiny_model("gpt2"))
        == "its adapters were trained over other weights than the policy's"
    )
    assert "and the policy on meta" in over_base(reward, tmp_path, tiny_model("llama").to("meta"))
    (tmp_path / FILE).unlink()
    assert over_base(reward, tmp_path, tiny_model("llama")) == "it was not trained with LoRA"


def test_adapters_that_are_broken_or_do_not_fit(tmp_path):
    reward, policy = trained(tmp_path), tiny_model("llama")
    safetensors.torch.save_file(
        {"x": torch.ones(1)}, tmp_path / FILE, metadata={"lora": LoRAConfig().model_dump_json()}
    )
    assert over_base(reward, tmp_path, policy) == "its adapters do not fit its layers"
    (tmp_path / FILE).write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"lora.safetensors cannot be read .*delete it"):
        over_base(reward, tmp_path, policy)

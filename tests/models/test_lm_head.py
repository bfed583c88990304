import pytest
import torch
from torch.testing import assert_close

from loopwright.models import lm_head
from loopwright.models.loading import without_dropout
from loopwright.models.trainable import LoRAConfig, TrainableConfig, make_trainable
from loopwright.objectives.logprobs import head_logits
from tests.tiny import CHANGED_LOGITS, FAMILIES, tiny_model

IDS = torch.randint(0, 250, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", [*FAMILIES, *CHANGED_LOGITS])
@torch.no_grad()
def test_what_is_read_gives_the_models_own_logits(family):
    model = without_dropout(tiny_model(family))
    head = lm_head.read(model, input_ids=IDS)
    assert (head.weight is None) == (family in CHANGED_LOGITS) != lm_head.head_is_all(model)
    places = torch.rand(IDS.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    picked = head.at(places)
    got = head_logits(picked.hidden, picked.weight, picked.bias, 1.0, None)
    assert picked.shape == (int(places.sum()), 260)
    assert_close(got, model(input_ids=IDS).logits[places])


@pytest.mark.parametrize("setting, weight", [("targets", False), ("modules_to_save", True)])
@torch.no_grad()
def test_adapters_on_the_head_count(setting, weight):
    lora = LoRAConfig(r=2, **{setting: ("lm_head",)})
    model = make_trainable(tiny_model("llama"), TrainableConfig(mode="lora", lora=lora), seed=0)
    for name, parameter in model.named_parameters():
        if "lm_head" in name and parameter.requires_grad:
            parameter.add_(0.1)
    head = lm_head.read(without_dropout(model), input_ids=IDS)
    assert (head.weight is not None) == weight
    got = head_logits(head.hidden.flatten(0, 1), head.weight, head.bias, 1.0, None)
    assert_close(got, model(input_ids=IDS).logits.flatten(0, 1))

import torch

from loopwright.training.precision import Masters


def model():
    layer = torch.nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[1.0, -2.0]]))
    return layer


def test_masters_gather_what_bfloat16_would_lose():
    """A hundred steps of 1e-4 move a weight of 1 by 1 %; bfloat16 has steps of 0.8 % and would not move at all."""
    layer = model()
    masters = Masters(layer, "bfloat16")
    for _ in range(100):
        layer(torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16)).sum().backward()
        (master,) = masters.named.values()
        assert layer.weight.grad is None and master.grad.dtype is torch.float32 and master.grad.tolist() == [[1.0, 0.0]]
        with torch.no_grad():
            master.sub_(1e-4 * master.grad)
        master.grad = None
        masters.write()
    assert torch.allclose(master, torch.tensor([[0.99, -2.0]])) and layer.weight[0, 0] < 1
    masters.restore()
    assert layer.weight.dtype is torch.float32 and torch.equal(layer.weight, master)
    again = Masters(layer, "bfloat16")  # a model may be trained several times
    layer(torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16)).sum().backward()
    assert master.grad is None and again.named["weight"].grad.tolist() == [[1.0, 0.0]]


def test_gradients_of_microbatches_are_added_in_float32():
    layer = model()
    masters = Masters(layer, "bfloat16")
    for x in (256.0, 1.0):  # in bfloat16 their sum is 256
        layer(torch.tensor([[x, 0.0]], dtype=torch.bfloat16)).sum().backward()
    (master,) = masters.named.values()
    assert master.grad.tolist() == [[257.0, 0.0]]


def test_in_float32_the_weights_are_their_own_masters():
    layer = model()
    masters = Masters(layer, "float32")
    assert masters.named["weight"] is layer.weight and masters.weights[0] is layer.weight
    layer(torch.ones(1, 2)).sum().backward()
    assert layer.weight.grad.tolist() == [[1.0, 1.0]]


def test_buffers_and_frozen_weights():
    layer = model().requires_grad_(False)
    layer.register_buffer("frequencies", torch.tensor([0.1]))
    masters = Masters(layer, "bfloat16")
    assert layer.frequencies.dtype is torch.float32 and layer.weight.dtype is torch.bfloat16 and not masters.named


def test_state_goes_back_into_the_model():
    first, second = Masters(model(), "bfloat16"), Masters(layer := model(), "bfloat16")
    with torch.no_grad():
        first.named["weight"].add_(0.25)
    second.load(first.state())
    assert layer.weight.tolist() == [[1.25, -1.75]]

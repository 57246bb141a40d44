import torch
from lrat.randomness import Keyed, keys


def test_a():
    k = Keyed(keys(0, torch.arange(10000)))
    u = k.uniform((10000, 5), "a")
    assert abs(u.mean().item() - 0.5) < 0.01

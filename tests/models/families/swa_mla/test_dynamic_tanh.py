"""Dynamic tanh is what it says."""

import torch

from athanor.models.families.swa_mla.dynamic_tanh import DynamicTanh


@torch.no_grad()
def test_dynamic_tanh_is_a_scaled_and_shifted_tanh():
    norm, x = DynamicTanh(3), torch.tensor([[-4.0, 0.5, 2.0]])
    norm.alpha.fill_(0.7)
    norm.gain.copy_(torch.tensor([1.0, 2.0, 3.0]))
    norm.bias.copy_(torch.tensor([0.1, 0.2, 0.3]))
    wanted = torch.tensor([1.0, 2.0, 3.0]) * torch.tanh(0.7 * x) + torch.tensor([0.1, 0.2, 0.3])
    torch.testing.assert_close(norm(x), wanted)

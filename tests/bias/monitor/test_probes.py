"""The probes see what passes, keep nothing of it, and leave no hooks."""

import pytest
import torch
from torch import Tensor, nn

from cmt_bias.bias.monitor.probes import GradientProbe, WeightProbe


class Given(nn.Module):
    def forward(self, lidar: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
        return lidar, camera


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_several_calls_count_together(dtype):
    torch.manual_seed(0)
    module, probe = Given(), WeightProbe()
    probe.attach(module)
    calls = [(torch.rand(2, queries).to(dtype), -torch.rand(2, queries)) for queries in (7, 30)]
    for lidar, camera in calls:
        module(lidar, camera)
    probe.detach()

    lidar, camera = (torch.cat([call[i].double() for call in calls], dim=1) for i in (0, 1))
    statistics = probe.statistics()
    assert statistics.lidar_mean == pytest.approx(lidar.mean().item())
    assert statistics.lidar_std == pytest.approx(lidar.std(correction=0).item())
    assert statistics.camera_mean == pytest.approx(camera.mean().item())
    assert statistics.camera_std == pytest.approx(camera.std(correction=0).item())
    assert not module._forward_hooks


def test_equal_weights_have_no_spread_and_zeros_are_seen_as_such():
    module, probe = Given(), WeightProbe()
    probe.attach(module)
    module(torch.full((1, 999), 0.7, dtype=torch.float64), torch.zeros(1, 999))
    statistics = probe.statistics()
    assert statistics.lidar_std == pytest.approx(0, abs=1e-7)
    assert statistics.all_zero('camera') and not statistics.all_zero('lidar')


def test_not_a_number_stays_one():
    module, probe = Given(), WeightProbe()
    probe.attach(module)
    module(torch.tensor([[1.0, torch.nan]]), torch.zeros(1, 2))
    assert probe.statistics().lidar_mean != probe.statistics().lidar_mean
    assert probe.statistics().lidar_std != probe.statistics().lidar_std


def test_a_module_that_is_not_called_has_no_statistics():
    module, probe = Given(), WeightProbe()
    probe.attach(module)
    module(torch.ones(1, 1), torch.ones(1, 1))
    probe.attach(module)
    assert probe.statistics() is None
    assert len(module._forward_hooks) == 1


def test_the_gradient_is_copied_before_the_step_and_only_while_attached():
    scale, other = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([scale, other], lr=0.1)
    probe = GradientProbe(optimizer, scale)
    probe.attach()
    scale.grad = torch.arange(4.0).reshape(2, 2)
    optimizer.step()
    optimizer.zero_grad(set_to_none=False)
    assert probe.stepped and probe.gradient.tolist() == [0.0, 1.0, 2.0, 3.0]

    optimizer.zero_grad()
    optimizer.step()
    assert probe.stepped and probe.gradient is None
    probe.clear()
    probe.detach()
    optimizer.step()
    assert not probe.stepped

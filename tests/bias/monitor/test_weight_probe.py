"""The probe sees what passes, keeps nothing of it, and leaves no hooks."""

import pytest
import torch
from torch import Tensor, nn

from cmt_bias.bias.monitor.weight_probe import WeightProbe


class Given(nn.Module):
    def forward(self, lidar: Tensor, camera: Tensor) -> tuple[Tensor, Tensor]:
        return lidar, camera


def statistics_of(*calls: tuple[Tensor, Tensor]) -> dict[str, float]:
    module, probe = Given(), WeightProbe()
    probe.attach(module)
    for weights in calls:
        module(*weights)
    taken = probe.take()
    assert not module._forward_hooks
    return taken


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16])
def test_several_calls_count_together(dtype):
    torch.manual_seed(0)
    calls = [(torch.rand(2, queries).to(dtype), -torch.rand(2, queries)) for queries in (7, 30)]
    lidar, camera = (torch.cat([call[i].double() for call in calls], dim=1) for i in (0, 1))
    assert statistics_of(*calls) == pytest.approx(
        {
            'lidar_mean': lidar.mean().item(),
            'lidar_std': lidar.std(correction=0).item(),
            'camera_mean': camera.mean().item(),
            'camera_std': camera.std(correction=0).item(),
        }
    )


def test_equal_weights_have_no_spread_and_zeros_are_exact():
    seen = statistics_of((torch.full((1, 999), 0.7, dtype=torch.float64), torch.zeros(1, 999)))
    assert seen['lidar_std'] == pytest.approx(0, abs=1e-7)
    assert seen['camera_mean'] == seen['camera_std'] == 0


def test_not_a_number_stays_one():
    seen = statistics_of((torch.tensor([[1.0, torch.nan]]), torch.zeros(1, 2)))
    assert seen['lidar_mean'] != seen['lidar_mean']
    assert seen['lidar_std'] != seen['lidar_std']


def test_a_module_that_is_not_called_has_no_statistics():
    assert statistics_of() == {}

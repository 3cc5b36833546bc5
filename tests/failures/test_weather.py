"""Rain, fog and night get worse with their severity."""

import numpy as np
import pytest
import torch

from cmt_bias.failures.weather import CameraNight, LiDARFog, Rain

from .samples import ground


def test_nights_get_darker_and_noisier():
    grey = [np.full((90, 160, 3), 150, dtype=np.uint8)]
    nights = [CameraNight(severity)(dict(img=grey, token='t'))['img'][0] for severity in (1, 2, 3)]
    means = [150.0, *(night.mean() for night in nights)]
    assert all(np.diff(means) < -10)
    assert all(night.std() > 4 for night in nights)


def test_fog_loses_far_points_and_puts_echoes_near_the_sensor():
    far, near = [], []
    for severity in (1, 2, 3):
        points = LiDARFog(severity)(dict(points=ground(), token='t'))['points'].tensor
        distance = points[:, :3].norm(dim=1)
        far.append(int((distance > 40).sum()))
        near.append(int((distance < 10).sum()))
        assert len(points) < 20000
        assert float(points[:, 3].max()) <= 20
    clean = ground().tensor[:, :3].norm(dim=1)
    assert int((clean > 40).sum()) > far[0] > far[1] > far[2]
    assert int((clean < 10).sum()) < near[2]


def test_rain_weakens_both_sensors_and_takes_one_alone():
    grey = [np.full((90, 160, 3), 60, dtype=np.uint8)]
    numbers = []
    for severity in (1, 2, 3):
        after = Rain(severity)(dict(points=ground(), img=grey, token='t'))
        numbers.append(len(after['points']))
        assert after['img'][0].mean() > 60  # grey veil and bright streaks
        assert after['img'][0].max() > 120
    assert 20000 * 0.97 > numbers[0] > numbers[1] > numbers[2]
    assert 'img' not in Rain()(dict(points=ground(), token='t'))
    assert 'points' not in Rain()(dict(img=grey, token='t'))


@pytest.mark.parametrize('severity', [1, 2, 3])
def test_rain_moves_points_along_their_rays_by_the_noise_of_its_level(severity):
    before = ground()
    before.tensor[:, 4] = torch.arange(len(before))  # which point it is
    after = Rain(severity)(dict(points=before, token='t'))['points'].tensor
    origin = before.tensor[after[:, 4].long()]
    distance = after[:, :3].norm(dim=1)
    shift = distance - origin[:, :3].norm(dim=1)
    kept = shift.abs() < 1  # others are echoes from drops
    assert kept.float().mean() > 0.5
    # the median of a normal distribution's absolute values lies at 0.6745 of its deviation
    deviation = float(shift[kept].abs().median()) / 0.6745
    assert deviation == pytest.approx(Rain.levels[severity - 1].range_noise, rel=0.05)
    torch.testing.assert_close(
        after[:, :3] / distance[:, None],
        origin[:, :3] / origin[:, :3].norm(dim=1, keepdim=True),
        atol=1e-5,
        rtol=0,
    )

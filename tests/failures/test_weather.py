"""Rain, fog and night get worse with their severity."""

import numpy as np

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
    numbers, spread = [], []
    for severity in (1, 2, 3):
        after = Rain(severity)(dict(points=ground(), img=grey, token='t'))
        numbers.append(len(after['points']))
        spread.append(float(after['points'].tensor[:, :3].norm(dim=1).max()))
        assert after['img'][0].mean() > 60  # grey veil and bright streaks
        assert after['img'][0].max() > 120
    assert 20000 * 0.97 > numbers[0] > numbers[1] > numbers[2]
    assert 'img' not in Rain()(dict(points=ground(), token='t'))
    assert 'points' not in Rain()(dict(img=grey, token='t'))

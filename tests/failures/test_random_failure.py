"""Failures drawn in training: the same for a seed, epoch and sample, whoever draws them."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch
from mmengine.dataset import BaseDataset
from mmengine.registry import DATASETS
from torch.utils.data import DataLoader

from cmt_bias.failures import all_failures
from cmt_bias.failures.catalog import FailureEpochHook, RandomFailure

FAILURES = {'camera_drop_[1-5]': 1.0, 'lidar_drop': 2.0, 'night_*': 1.0, 'camera_shift': 1.0}


@DATASETS.register_module(force=True)
class SamplesAsTheyAre(BaseDataset):
    """Sixteen samples of six images and a number, by which they are known."""

    def load_data_list(self) -> list[dict]:
        rng = np.random.default_rng(0)
        images = rng.integers(1, 255, (6, 6, 8, 3), dtype=np.uint8)
        return [dict(token=f'sample {i}', img=[*images], sample_idx=i) for i in range(16)]


def drawn(transform: RandomFailure, epoch: int, num_workers: int = 0) -> dict[str, tuple]:
    """Failure and images of each sample in an epoch."""
    dataset = SamplesAsTheyAre(pipeline=[transform], serialize_data=False)
    transform.epoch.fill_(epoch)
    loader = DataLoader(dataset, num_workers=num_workers, collate_fn=lambda batch: batch[0])
    return {
        results['token']: (results['failure'], np.stack(results['img']).tobytes())
        for results in loader
    }


def camera_failures(seed: int = 0, probability: float = 0.7) -> RandomFailure:
    chosen = {'camera_drop_[12]': 1.0, 'night_*': 1.0, 'camera_shift': 1.0}
    return RandomFailure(chosen, probability, seed)


def test_draws_are_the_same_with_any_number_of_workers_and_after_a_resume():
    expected = [drawn(camera_failures(), epoch) for epoch in range(3)]
    assert drawn(camera_failures(), 2, num_workers=2) == expected[2]
    assert drawn(camera_failures(), 1) == expected[1]  # a run that began in this epoch


def test_draws_differ_between_epochs_seeds_and_samples():
    first = drawn(camera_failures(), 0)
    names = [name for name, _ in first.values()]
    assert len(set(names)) > 3 and '' in names
    assert drawn(camera_failures(), 1) != first
    assert drawn(camera_failures(seed=1), 0) != first
    # one failure looks different in another epoch
    dropped = RandomFailure({'camera_drop_1': 1.0}, 1.0)
    assert len({image for epoch in range(6) for _, image in drawn(dropped, epoch).values()}) > 3


def test_workers_that_live_on_are_told_the_epoch():
    transform = camera_failures()
    dataset = SamplesAsTheyAre(pipeline=[transform], serialize_data=False)
    loader = DataLoader(
        dataset, num_workers=1, persistent_workers=True, collate_fn=lambda batch: batch[0]
    )
    for epoch in range(2):
        transform.epoch.fill_(epoch)
        names = {results['token']: results['failure'] for results in loader}
        expected = {key: name for key, (name, _) in drawn(camera_failures(), epoch).items()}
        assert names == expected


def test_failures_come_as_often_as_their_weights_say(sample_of_both):
    transform = RandomFailure(FAILURES, probability=0.5)
    transform.epoch.fill_(0)
    counts: Counter = Counter()
    for number in range(1000):
        failure = transform._draw(sample_of_both, np.random.default_rng(number))
        counts['' if failure is None else failure.name] += 1
    expected = {'': 500, 'lidar_drop': 200, 'camera_shift': 100}
    expected |= {f'camera_drop_{number}': 20 for number in range(1, 6)}
    expected |= {f'night_{severity}': 100 / 3 for severity in (1, 2, 3)}
    assert set(counts) == set(expected)
    for name, number in expected.items():
        assert counts[name] == pytest.approx(number, abs=4 * number**0.5), name


def test_a_failure_of_a_sensor_that_is_not_there_is_never_drawn():
    transform = RandomFailure(FAILURES, probability=1.0)
    for epoch in range(20):
        names = {name for name, _ in drawn(transform, epoch).values()}
        assert 'lidar_drop' not in names and '' not in names


def test_a_failure_of_both_sensors_is_drawn_for_a_sample_of_one():
    transform = RandomFailure({'rain_3': 1.0, 'lidar_drop': 1.0}, probability=1.0)
    assert {name for name, _ in drawn(transform, 0).values()} == {'rain_3'}


def test_a_healthy_sample_says_that_nothing_is_spoiled(sample_of_both):
    transform = RandomFailure(FAILURES, probability=0.0)
    transform.epoch.fill_(3)
    before = copy.deepcopy(sample_of_both)
    after = transform(sample_of_both)
    assert (after['failure'], after['spoiled_sensors']) == ('', '')
    assert all(np.array_equal(a, b) for a, b in zip(after['img'], before['img'], strict=True))


@pytest.fixture
def sample_of_both() -> dict:
    images = [np.full((4, 6, 3), 9, dtype=np.uint8)] * 6
    return dict(token='t', img=images, points=torch.ones(3, 5))


def test_without_an_epoch_the_hook_is_asked_for():
    with pytest.raises(RuntimeError, match='FailureEpochHook'):
        RandomFailure(FAILURES)(dict(token='t'))


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        (dict(failures={'no_such': 1.0}), 'no_such.*fits none of lidar_beams_4'),
        (dict(failures={'night_*': 0.0}), 'must be positive'),
        (dict(failures=FAILURES, probability=1.5), r'within \[0, 1\]'),
    ],
)
def test_settings_without_meaning_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RandomFailure(**settings)


def test_every_failure_of_the_catalogue_can_be_drawn():
    names = [failure.name for failure in all_failures() if failure.transforms]
    transform = RandomFailure({'*': 1.0})
    assert sorted(failure.name for failure, _ in transform.failures) == sorted(names)


class RunnerAt:
    """What the hook asks a runner for."""

    def __init__(self, dataset, epoch: int) -> None:
        self.train_dataloader = DataLoader(dataset)
        self.epoch = epoch


def test_the_hook_tells_nested_datasets_the_epoch_of_a_resumed_run():
    transform = camera_failures()
    inner = SamplesAsTheyAre(pipeline=[transform], serialize_data=False)

    class Wrapper(torch.utils.data.Dataset):
        dataset = inner

        def __len__(self) -> int:
            return 1

    # hooks may look at the data before the first epoch
    FailureEpochHook().before_train(RunnerAt(Wrapper(), epoch=7))
    assert int(transform.epoch) == 7
    FailureEpochHook().before_train_epoch(RunnerAt(Wrapper(), epoch=8))
    assert int(transform.epoch) == 8

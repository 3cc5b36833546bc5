"""Samples of a dataset as scenes: captions from its tables, and the choice of what to picture."""

import pickle
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdet3d.registry import DATASETS

from cmt_bias.runs.preflight import ProblemsFound
from cmt_bias.visualization import DatasetScenes
from cmt_bias.visualization.dataset_scenes import spread_samples

from .tiny_dataset import dataset_config


def scenes_of(folder, times: int = 1) -> DatasetScenes:
    config = dataset_config(folder)
    if times > 1:
        config = dict(type='RepeatDataset', times=times, dataset=config)
    return DatasetScenes(DATASETS.build(config))


def captions(scenes: DatasetScenes, index: int) -> tuple[str, str]:
    example = scenes.load(index)
    scene = scenes.scene(index, example['inputs'], example['data_samples'])
    return scene.title, scene.subtitle


@pytest.mark.usefixtures('mmdet3d_scope')
@pytest.mark.parametrize(('times', 'index', 'token'), [(1, 2, 'token2'), (2, 4, 'token1')])
def test_caption_names_scene_number_and_token_of_the_sample_drawn(
    tiny_folder, times, index, token
):
    assert captions(scenes_of(tiny_folder, times), index) == (
        'scene-0007: Night, rain',
        f'sample {index}, token {token}',
    )


@pytest.mark.usefixtures('mmdet3d_scope')
def test_without_tables_the_lidar_file_is_the_title(tiny_folder):
    (tiny_folder / 'v1.0-tiny' / 'scene.json').unlink()
    assert captions(scenes_of(tiny_folder), 0)[0] == 'lidar.bin'


@pytest.mark.usefixtures('mmdet3d_scope')
def test_samples_are_chosen_by_number_and_token(tiny_folder):
    scenes = scenes_of(tiny_folder)
    assert scenes.choose(['2', 'token0'], 1) == [2, 0]
    assert scenes.choose(None, 2) == [0, 1]
    with pytest.raises(ProblemsFound, match='--samples 3 token9.*\n.*0 to 2'):
        scenes.choose(['1', '3', 'token9'], 1)


@pytest.mark.usefixtures('mmdet3d_scope')
def test_number_beats_a_token_that_looks_like_one(tiny_folder):
    file = tiny_folder / 'infos.pkl'
    content = pickle.loads(file.read_bytes())
    for info, token in zip(content['data_list'], ('7', '1', '0'), strict=True):
        info['token'] = token
    file.write_bytes(pickle.dumps(content))
    assert scenes_of(tiny_folder).choose(['0', '7'], 1) == [0, 0]


@given(length=st.integers(0, 200), interval=st.integers(1, 20), limit=st.integers(1, 30))
def test_chosen_samples_are_spread_over_the_dataset(length, interval, limit):
    chosen = spread_samples(length, interval, limit)
    candidates = range(0, length, interval)
    assert set(chosen) <= set(candidates)
    assert len(chosen) == len(set(chosen)) == min(limit, len(candidates))
    gaps = [b - a for a, b in pairwise(chosen)]
    assert all(gap > 0 for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= interval


def test_no_limit_takes_every_interval():
    assert spread_samples(7, 3, None) == [0, 3, 6]


@pytest.mark.parametrize(('interval', 'limit'), [(0, None), (1, 0)])
def test_choice_of_nothing_is_refused(interval, limit):
    with pytest.raises(ValueError, match='at least 1'):
        spread_samples(5, interval, limit)

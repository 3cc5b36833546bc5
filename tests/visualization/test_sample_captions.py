"""Captions from the tables and the choice of the samples to picture."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mmdet3d.registry import DATASETS

from cmt_bias.visualization import SampleCaptions, read_scene_titles, spread_samples

from .tiny_dataset import dataset_config


@pytest.mark.usefixtures('mmdet3d_scope')
def test_caption_names_scene_number_and_token(tiny_folder):
    captions = SampleCaptions(DATASETS.build(dataset_config(tiny_folder)))
    assert captions.title(2) == 'scene-0007: Night, rain'
    assert captions.subtitle(2) == 'sample 2, token token2'


@pytest.mark.usefixtures('mmdet3d_scope')
def test_caption_of_a_wrapped_dataset_is_that_of_the_sample_drawn(tiny_folder):
    wrapped = dict(type='RepeatDataset', times=2, dataset=dataset_config(tiny_folder))
    captions = SampleCaptions(DATASETS.build(wrapped))
    assert captions.title(4) == 'scene-0007: Night, rain'
    assert captions.subtitle(4) == 'sample 4, token token1'


@pytest.mark.usefixtures('mmdet3d_scope')
def test_without_tables_the_lidar_file_is_the_title(tiny_folder):
    (tiny_folder / 'v1.0-tiny' / 'scene.json').unlink()
    captions = SampleCaptions(DATASETS.build(dataset_config(tiny_folder)))
    assert captions.title(0) == 'lidar.bin'


def test_no_tables_give_no_titles(tmp_path):
    assert read_scene_titles(tmp_path, 'v1.0-mini') == {}


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

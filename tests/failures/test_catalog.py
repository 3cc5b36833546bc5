"""Where a failure comes into a pipeline."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet3d.registry import DATASETS
from mmengine.config import Config

from cmt_bias.failures import all_failures, find_failures, with_failure

ROOT = Path(__file__).parents[2]
CONFIGS = sorted(
    path for folder in ('cmt', 'cmt_bias') for path in (ROOT / 'configs' / folder).glob('*.py')
)
FAILURE = dict(type='LiDARDrop', seed=3)
# may draw none of the few objects; the scenes are shorter than 2 s
MAY_CHANGE_NOTHING = {'lidar_objects_50', 'camera_frozen', 'camera_frozen_3'}


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: path.stem)
def test_in_every_recipe_the_failure_is_right_behind_the_loading(path):
    pipeline = Config.fromfile(path).test_dataloader.dataset.pipeline
    before = copy.deepcopy(pipeline)
    changed = with_failure(pipeline, [FAILURE])
    assert pipeline == before
    kinds = [step['type'] for step in changed]
    place = kinds.index('LiDARDrop')
    assert all('Load' in kind for kind in kinds[:place])
    assert not any('Load' in kind for kind in kinds[place + 1 :])
    assert changed[place] == FAILURE
    assert [step for step in changed if step['type'] != 'LiDARDrop'][:-1] == pipeline[:-1]
    # 'spoiled_sensors' is among the recipes' own keys
    assert changed[-1]['meta_keys'] == (*pipeline[-1]['meta_keys'], 'changed_by_failure')
    assert 'spoiled_sensors' in changed[-1]['meta_keys']


def test_scopes_nested_transforms_and_default_meta_keys_are_understood():
    pipeline = [
        dict(type='mmdet3d.LoadPointsFromFile', coord_type='LIDAR'),
        dict(type='MultiScaleFlipAug3D', transforms=[]),
        dict(type='mmdet3d.Pack3DDetInputs', keys=['points']),
    ]
    changed = with_failure(pipeline, [FAILURE])
    assert changed[1] == FAILURE
    assert 'changed_by_failure' in changed[3]['meta_keys']
    assert 'lidar2img' in changed[3]['meta_keys']


@pytest.mark.parametrize(
    ('pipeline', 'lacking'),
    [
        ([dict(type='Pack3DDetInputs', keys=[])], 'loads'),
        ([dict(type='LoadPointsFromFile', coord_type='LIDAR')], 'Pack3DDetInputs'),
    ],
)
def test_a_pipeline_without_a_place_is_refused(pipeline, lacking):
    with pytest.raises(ValueError, match=lacking):
        with_failure(pipeline, [FAILURE])


def test_the_changed_pipeline_shares_nothing_with_the_given_one():
    pipeline = [
        dict(type='LoadPointsFromFile', backend_args=dict(backend='local')),
        dict(type='Pack3DDetInputs', keys=['points']),
    ]
    failure = dict(type='LiDARFov', angles=[0, 60])
    changed = with_failure(pipeline, [failure])
    changed[0]['backend_args']['backend'] = 'other'
    changed[1]['angles'].append(1)
    assert pipeline[0]['backend_args'] == dict(backend='local')
    assert failure['angles'] == [0, 60]


def test_all_names_of_no_failure_are_named():
    with pytest.raises(ValueError, match=r'called nope_a, nope_\*; there are clean, '):
        find_failures(['lidar_drop', 'nope_a', 'night_*', 'nope_*'])


@pytest.fixture(scope='module')
def make_dataset(smallest_nuscenes):
    """Factory of the tiny recipe's test data set with a failure."""

    def make(transforms: list[dict]):
        cfg = Config.fromfile(next((ROOT / 'configs' / 'cmt').glob('*tiny*.py')))
        settings = copy.deepcopy(cfg.test_dataloader.dataset)
        settings.data_root = f'{smallest_nuscenes}/'
        if transforms:
            settings.pipeline = with_failure(settings.pipeline, transforms)
        return DATASETS.build(settings)

    return make


@pytest.fixture(scope='module')
def clean_sample(make_dataset) -> dict:
    return make_dataset([])[1]


@pytest.mark.parametrize('failure', all_failures((3,))[1:], ids=lambda failure: failure.name)
def test_on_nuscenes_files_the_packed_input_changes_and_the_sample_tells(
    failure, make_dataset, clean_sample
):
    after = make_dataset(failure.seeded(0))[1]
    meta = after['data_samples'].metainfo
    for key in ('sample_idx', 'img_shape'):
        assert clean_sample['data_samples'].metainfo[key] == meta[key]
    # Points outside the range, which the pipeline drops, may be all that has changed.
    differs = not _same_inputs(clean_sample, after)
    assert meta['changed_by_failure'] or not differs
    if failure.name not in MAY_CHANGE_NOTHING:
        assert differs
        assert meta['spoiled_sensors'] == failure.spoils


def _same_inputs(before: dict, after: dict) -> bool:
    points = [part['inputs']['points'] for part in (before, after)]
    images = [torch.stack(list(part['inputs']['img'])) for part in (before, after)]
    matrices = [part['data_samples'].metainfo['lidar2img'] for part in (before, after)]
    return torch.equal(*points) and torch.equal(*images) and np.array_equal(*matrices)

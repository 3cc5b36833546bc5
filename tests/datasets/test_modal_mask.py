"""The one definition of a missing sensor."""

import numpy as np
import pytest

from cmt_bias.datasets import ModalMask3D, with_modality


def masked_inputs(sample: dict) -> str:
    """Which inputs of a sample are zero everywhere."""
    images = all((image == 0).all() for image in sample['img'])
    points = bool((sample['points'].tensor == 0).all())
    return {(False, False): 'none', (True, False): 'image', (False, True): 'points'}[
        images, points
    ]


def test_training_masks_a_quarter_of_the_images_and_a_quarter_of_the_clouds(make_sample):
    transform = ModalMask3D(mode='train')
    np.random.seed(0)
    found = []
    healthy = make_sample(num_views=1, num_points=3, num_boxes=0, image_size=(2, 2))
    for _ in range(2000):
        sample = transform(dict(healthy))
        found.append(masked_inputs(sample))
        assert (sample['masked_modality'] or 'none') == found[-1]
    shares = [found.count(name) / len(found) for name in ('image', 'points', 'none')]
    # Three standard deviations of a share of 2000 draws are 0.03.
    np.testing.assert_allclose(shares, [0.25, 0.25, 0.5], atol=0.03)


@pytest.mark.parametrize('name', ['image', 'points'])
def test_testing_always_masks_the_same_and_keeps_shapes_and_matrices(make_sample, name):
    before, after = make_sample(), ModalMask3D(mode='test', mask_modal=name)(make_sample())
    assert masked_inputs(after) == name
    assert after['points'].shape == before['points'].shape
    for old, new in zip(before['img'], after['img'], strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
        if name == 'points':
            np.testing.assert_array_equal(old, new)
    np.testing.assert_array_equal(before['lidar2img'], after['lidar2img'])
    np.testing.assert_array_equal(before['gt_labels_3d'], after['gt_labels_3d'])


@pytest.mark.parametrize('label', [{}, dict(spoiled_sensors='')])
def test_what_is_masked_counts_as_spoiled_as_under_any_other_failure(make_sample, label):
    transform = ModalMask3D(mode='train', image_drop_prob=0.4, points_drop_prob=0.4)
    np.random.seed(0)
    found = set()
    for _ in range(20):
        sample = transform(
            make_sample(num_views=2, num_points=3, num_boxes=0, image_size=(2, 2)) | label
        )
        masked = masked_inputs(sample)
        found.add(masked)
        expected = dict(image='C', points='L').get(masked, label.get('spoiled_sensors'))
        assert sample.get('spoiled_sensors') == expected
        assert ('spoiled_views' in sample) == (masked == 'image')
        assert ('spoiled_regions' in sample) == (masked == 'points')
        assert np.all(sample.get('spoiled_views', True))
    assert found == {'image', 'points', 'none'}


def test_an_empty_cloud_stays_empty(make_sample):
    sample = ModalMask3D(mode='test', mask_modal='points')(make_sample(num_points=0))
    assert sample['points'].shape == (0, 5)


@pytest.mark.parametrize(('modality', 'masked'), [('LC', None), ('L', 'image'), ('C', 'points')])
def test_a_pipeline_for_some_sensors_masks_the_others_just_before_packing(modality, masked):
    pipeline = [dict(type='LoadPointsFromFile'), dict(type='Pack3DDetInputs', keys=['img'])]
    changed = with_modality(pipeline, modality)
    assert [step['type'] for step in pipeline] == ['LoadPointsFromFile', 'Pack3DDetInputs']
    if masked is None:
        assert changed == pipeline
    else:
        assert changed[1] == dict(type='ModalMask3D', mode='test', mask_modal=masked)
        assert [changed[0], changed[2]] == pipeline


def test_unknown_sensors_and_pipelines_without_packing_are_refused():
    with pytest.raises(ValueError, match="'R'"):
        with_modality([dict(type='Pack3DDetInputs')], 'R')
    with pytest.raises(ValueError, match='Pack3DDetInputs'):
        with_modality([dict(type='LoadPointsFromFile')], 'C')


def test_masking_what_is_not_there_is_refused(make_sample):
    sample = make_sample()
    del sample['img']
    with pytest.raises(KeyError, match="no 'img'"):
        ModalMask3D(mode='test', mask_modal='image')(sample)


@pytest.mark.parametrize(
    'arguments',
    [
        dict(mode='val'),
        dict(mask_modal='radar'),
        dict(image_drop_prob=0.6, points_drop_prob=0.6),
        dict(image_drop_prob=-0.1),
    ],
)
def test_meaningless_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match='ModalMask3D'):
        ModalMask3D(**arguments)

"""Labels of the samples that a scene's condition spoils."""

import json

import pytest
from mmdet3d.registry import TRANSFORMS


@pytest.fixture
def data_root(tmp_path):
    """Tables of scenes by day, at night, at night after rain, and in rain, each with a sample."""
    (tmp_path / 'v1.0-mini').mkdir()
    scenes = [
        dict(token='s0', description='Parked cars, turn'),
        dict(token='s1', description='Night, big street'),
        dict(token='s2', description='Night, after rain, many peds in PMD'),
        dict(token='s3', description='Rain, parked cars'),
    ]
    samples = [dict(token=name, scene_token=f's{i}') for i, name in enumerate('abcd')]
    (tmp_path / 'v1.0-mini' / 'scene.json').write_text(json.dumps(scenes))
    (tmp_path / 'v1.0-mini' / 'sample.json').write_text(json.dumps(samples))
    return str(tmp_path)


def label(token: str, data_root: str | list[str], **sample: str) -> dict:
    transform = TRANSFORMS.build(
        dict(
            type='LabelSpoiledSensors',
            data_root=data_root,
            version='v1.0-mini',
            spoiled_by=dict(night='C'),
        )
    )
    return transform(dict(token=token, **sample))


def test_samples_of_spoiling_conditions_are_labelled(data_root):
    assert label('a', data_root)['spoiled_sensors'] == ''
    assert label('b', data_root)['spoiled_sensors'] == 'C'


@pytest.mark.parametrize(
    ('spoiled_by', 'expected'),
    [
        (dict(night='C'), ['', 'C', 'C', '']),
        (dict(night='C', rain='LC'), ['', 'C', 'LC', 'LC']),
        ({'night and rain': 'C'}, ['', '', 'C', '']),
        ({'day': 'L', 'night and rain': 'C', 'rain': 'L'}, ['L', '', 'LC', 'L']),
    ],
)
def test_a_scene_of_two_conditions_suffers_from_each(data_root, spoiled_by, expected):
    transform = TRANSFORMS.build(
        dict(
            type='LabelSpoiledSensors',
            data_root=data_root,
            version='v1.0-mini',
            spoiled_by=spoiled_by,
        )
    )
    assert [transform(dict(token=name))['spoiled_sensors'] for name in 'abcd'] == expected


def test_a_sample_of_other_data_is_no_healthy_one(data_root, tmp_path):
    """A study tests under failures on data of their own, whose nights were no nights."""
    other = tmp_path / 'other' / 'v1.0-mini'
    other.mkdir(parents=True)
    (other / 'scene.json').write_text(json.dumps([dict(token='s0', description='Night')]))
    (other / 'sample.json').write_text(json.dumps([dict(token='e', scene_token='s0')]))
    with pytest.raises(KeyError, match=r"'e' is not in the tables of data_root=.*add the folder"):
        label('e', data_root)
    both = [data_root, str(other.parent)]
    assert [label(token, both)['spoiled_sensors'] for token in 'abe'] == ['', 'C', 'C']


def test_without_a_condition_no_tables_are_needed():
    settings = dict(type='LabelSpoiledSensors', data_root='nowhere', version='v1.0-mini')
    transform = TRANSFORMS.build(dict(settings, spoiled_by={}))
    assert transform(dict(token='any'))['spoiled_sensors'] == ''


def test_a_failure_and_a_condition_add_up(data_root):
    assert label('b', data_root, spoiled_sensors='L')['spoiled_sensors'] == 'LC'
    assert label('a', data_root, spoiled_sensors='L')['spoiled_sensors'] == 'L'


def test_mistakes_name_the_setting(data_root, tmp_path):
    def build(**settings):
        return TRANSFORMS.build(dict(type='LabelSpoiledSensors', version='v1.0-mini', **settings))

    with pytest.raises(FileNotFoundError, match=r'nowhere.*set data_root'):
        build(data_root=str(tmp_path / 'nowhere'), spoiled_by=dict(night='C'))
    with pytest.raises(ValueError, match=r"spoiled_by\['rain'\]='radar'"):
        build(data_root=data_root, spoiled_by=dict(rain='radar'))
    with pytest.raises(
        ValueError, match=r"spoiled_by\['nigth'\] is no condition.*day, fog, night"
    ):
        build(data_root=data_root, spoiled_by=dict(nigth='C'))

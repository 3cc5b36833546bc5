"""The check of a database for pasting, for this package's sampler and for others."""

import pickle
from pathlib import Path

import pytest

from cmt_bias.datasets.object_database import check_database

CLASSES = ('car', 'pedestrian')


def pasting(info_path: Path, sample_2d: bool = True, **sampler) -> dict:
    """Config of a transform that pastes, with what mmdet3d's sampler takes."""
    settings = dict(
        type='DataBaseSampler',
        info_path=str(info_path),
        data_root=str(info_path.parent),
        rate=1.0,
        prepare={},
        sample_groups=dict(car=2),
        classes=CLASSES,
    )
    return dict(type='ObjectSample', sample_2d=sample_2d, db_sampler={**settings, **sampler})


@pytest.mark.parametrize('read_all', [False, True])
@pytest.mark.parametrize(
    'sampler',
    [
        dict(type='UnifiedDataBaseSampler'),
        dict(type='OfTheUser', weight_of_rare_classes=2.0),
        dict(points_loader=dict(type='LoaderThatIsRegisteredLater')),
    ],
    ids=['ours', 'an argument of its own', 'a loader of its own'],
)
def test_whatever_sampler_a_good_database_has_no_problem(make_database, sampler, read_all):
    assert check_database(pasting(make_database(), **sampler), read_all) == []


@pytest.mark.parametrize('read_all', [False, True])
def test_crops_are_asked_for_only_where_images_are_pasted_into(make_database, read_all):
    info_path = make_database()
    for crop in (info_path.parent / 'db').glob('*.png'):
        crop.unlink()
    assert check_database(pasting(info_path, sample_2d=False), read_all) == []
    problems = check_database(pasting(info_path), read_all)
    assert [name in problems[0].what for name in ('.png', 'does not exist')] == [True, True]
    assert 'tools/create_data.py nuscenes' in problems[0].remedy


def test_the_database_of_another_sampler_is_looked_through(make_database):
    info_path = make_database()
    database = pickle.loads(info_path.read_bytes())
    del database['pedestrian'][1]['difficulty']
    info_path.write_bytes(pickle.dumps(database))
    (info_path.parent / 'db' / '0.bin').unlink()
    found = [problem.what for problem in check_database(pasting(info_path, type='OfTheUser'))]
    assert len(found) == 2
    assert "/db/0.bin', which does not exist" in found[0]
    assert "of class pedestrian has no 'difficulty'" in found[1]
    info_path.unlink()
    (problem,) = check_database(pasting(info_path, type='OfTheUser'))
    assert 'does not exist' in problem.what and 'tools/create_data.py nuscenes' in problem.remedy


def test_every_file_that_cannot_be_read_is_named_when_all_are(make_database):
    info_path = make_database()
    (info_path.parent / 'db' / '3.bin').write_bytes(b'123')
    (info_path.parent / 'db' / '4.png').write_bytes(b'')
    assert check_database(pasting(info_path)) == []
    found = [problem.what for problem in check_database(pasting(info_path), read_all=True)]
    assert len(found) == 2
    assert any('3.bin' in what and 'is cut off' in what for what in found)
    assert any('4.png' in what and 'is empty' in what for what in found)


def test_a_sampler_that_names_no_database_is_passed_over():
    assert check_database(dict(db_sampler=dict(type='OfTheUser', host='storage'))) == []

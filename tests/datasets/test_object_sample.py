"""Pasting objects: boxes without collisions, their points, their pixels."""

import itertools
import logging
import pickle
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmdet3d.structures.ops import box_np_ops
from mmengine.logging import MMLogger
from shapely.geometry import Polygon

from cmt_bias.datasets import UnifiedObjectSample
from cmt_bias.datasets.object_sample import paste_crops, visible_boxes
from cmt_bias.plain_pickle import InfoFileError

CLASSES = ('car', 'pedestrian')


def pasting(info_path: Path, sampler: dict | None = None, **kwargs) -> UnifiedObjectSample:
    db_sampler = dict(
        info_path=str(info_path),
        data_root=str(info_path.parent),
        rate=1.0,
        prepare=dict(filter_by_difficulty=[-1], filter_by_min_points=dict(car=5, pedestrian=5)),
        sample_groups=dict(car=8, pedestrian=8),
        classes=CLASSES,
    )
    return UnifiedObjectSample(db_sampler={**db_sampler, **(sampler or {})}, **kwargs)


def scene(make_sample, seed: int = 0, num_views: int = 3) -> dict:
    """A scene whose own objects are three cars, so that few pasted ones collide with them."""
    sample = make_sample(seed=seed, num_boxes=3, num_points=3000, num_views=num_views)
    sample['gt_labels_3d'] = np.zeros(3, dtype=np.int64)
    return sample


def inside(box: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (P, 3) inside one box, by turning them into the box's own frame."""
    turn = np.array(
        [[np.cos(box[6]), np.sin(box[6]), 0], [-np.sin(box[6]), np.cos(box[6]), 0], [0, 0, 1]]
    )
    local = (points - box[:3]) @ turn.T
    return (np.abs(local[:, :2]) <= box[3:5] / 2 + 1e-4).all(1) & (
        np.abs(local[:, 2] - box[5] / 2) <= box[5] / 2 + 1e-4
    )


@pytest.mark.parametrize('seed', range(5))
def test_pasted_objects_collide_with_nothing_and_bring_labels_and_points(
    make_sample, make_database, seed
):
    transform = pasting(make_database())
    np.random.seed(seed)
    before, after = scene(make_sample, seed), transform(scene(make_sample, seed))
    boxes = after['gt_bboxes_3d'].tensor.numpy()
    assert len(boxes) > 3 and len(boxes) == len(after['gt_labels_3d'])
    np.testing.assert_array_equal(boxes[:3], before['gt_bboxes_3d'].tensor.numpy())
    np.testing.assert_array_equal(after['gt_labels_3d'][:3], before['gt_labels_3d'])
    assert after['gt_labels_3d'].dtype == np.int64

    corners = box_np_ops.center_to_corner_box2d(boxes[:, :2], boxes[:, 3:5], boxes[:, 6])
    for one, other in itertools.combinations(range(len(boxes)), 2):
        if other >= 3:  # the scene's own objects may overlap each other
            assert Polygon(corners[one]).intersection(Polygon(corners[other])).area < 1e-6

    infos = pickle.loads((Path(transform.db_sampler.info_path)).read_bytes())
    points = after['points'].tensor.numpy()
    for box, label in zip(boxes[3:], after['gt_labels_3d'][3:], strict=True):
        entry = next(e for e in infos[CLASSES[label]] if np.allclose(e['box3d_lidar'], box))
        found = points[inside(box, points[:, :3])]
        assert len(found) == entry['num_points_in_gt']  # nothing of the scene is left in there
        assert (found[:, 3] == entry['image_idx']).all()


def test_scenes_are_filled_up_to_the_number_wished(make_sample, make_database):
    transform = pasting(
        make_database(number=100, image_crops=False), dict(sample_groups=dict(car=4, pedestrian=2))
    )
    counts = []
    for seed in range(20):
        np.random.seed(seed)
        after = transform(scene(make_sample, seed))
        counts.append(np.bincount(after['gt_labels_3d'], minlength=2))
    # The scene has three cars; one car and two pedestrians are tried, and may collide.
    assert (np.max(counts, axis=0) == [4, 2]).all() and (np.min(counts, axis=0) >= [3, 0]).all()


def test_the_numpy_seed_decides_what_is_pasted(make_sample, make_database):
    transform = pasting(make_database())
    results = []
    for seed in (3, 3, 4):
        np.random.seed(seed)
        results.append(transform(scene(make_sample))['gt_bboxes_3d'].tensor.numpy())
    np.testing.assert_array_equal(results[0], results[1])
    assert results[0].shape != results[2].shape or not np.allclose(results[0], results[2])


def test_a_scene_without_objects_is_filled(make_sample, make_database):
    np.random.seed(0)
    after = pasting(make_database(), sample_2d=True)(make_sample(num_boxes=0))
    assert len(after['gt_labels_3d']) > 2


def test_switched_off_nothing_is_pasted(make_sample, make_database):
    transform = pasting(make_database(), sample_2d=True)
    transform.disabled = True
    before, after = scene(make_sample), transform(scene(make_sample))
    assert len(after['gt_bboxes_3d']) == 3
    np.testing.assert_array_equal(before['points'].tensor, after['points'].tensor)
    np.testing.assert_array_equal(before['img'], after['img'])


def painted_pixel_by_pixel(
    image: np.ndarray, lidar2img: np.ndarray, corners: np.ndarray, crops: list, mixup: float
) -> tuple[np.ndarray, list[int]]:
    """The image with the crops of some boxes (N, 8, 3), and which of them it shows."""
    found = []
    for index, box in enumerate(corners):
        u, v, depth = lidar2img[:3, :3] @ box.T + lidar2img[:3, 3:]
        if (depth <= 0).any():
            continue
        left, right = (
            int(np.clip(int(x), 0, image.shape[1] - 1)) for x in (min(u / depth), max(u / depth))
        )
        top, bottom = (
            int(np.clip(int(y), 0, image.shape[0] - 1)) for y in (min(v / depth), max(v / depth))
        )
        if right - left > 1 and bottom - top > 1:
            found.append((depth.mean(), index, (left, top, right, bottom)))
    painted = image.copy()
    for _, index, (left, top, right, bottom) in sorted(found, reverse=True):
        crop = cv2.resize(crops[index], (right - left, bottom - top))
        for row, column in itertools.product(range(bottom - top), range(right - left)):
            old, new = painted[top + row, left + column], crop[row, column]
            blend = new if mixup < 0 else old * (1 - mixup) + new * mixup
            painted[top + row, left + column] = np.floor(blend)
    return painted, [index for _, index, _ in found]


@pytest.mark.parametrize('mixup_rate', [-1, 0.5])
def test_an_objects_crop_is_painted_in_every_view_that_sees_it(
    make_sample, make_database, mixup_rate
):
    info_path = make_database()
    before, after = (scene(make_sample, num_views=8) for _ in range(2))
    np.random.seed(1)
    after = pasting(info_path, sample_2d=True, mixup_rate=mixup_rate)(after)
    infos = pickle.loads(info_path.read_bytes())
    entries = [entry for found in infos.values() for entry in found]
    pasted = after['gt_bboxes_3d'][3:]
    crops = []
    for box in pasted.tensor.numpy():
        entry = next(e for e in entries if np.allclose(e['box3d_lidar'], box))
        crops.append(cv2.imread(str(info_path.parent / entry['image_path'])))
    views_of = Counter()
    for view, lidar2img in enumerate(after['lidar2img']):
        expected, shown = painted_pixel_by_pixel(
            before['img'][view], lidar2img, pasted.corners.numpy(), crops, mixup_rate
        )
        np.testing.assert_array_equal(after['img'][view], expected)
        views_of.update(shown)
    assert len(views_of) >= 3
    assert max(views_of.values()) > 1, 'an object must be seen by two cameras'


def test_the_nearer_pasted_object_covers_the_farther_one_and_one_without_a_crop_nothing():
    lidar2img = np.array([[100.0, 0, 50, 0], [0, 100, 50, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

    def cube(depth: float, x: float) -> np.ndarray:
        signs = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
        return signs + np.array([x, 0, depth])

    # Object 0, which has no crop, nearest; 1 farthest; 2 between them.
    corners = np.stack([cube(4.0, 0.4), cube(10.0, 0.0), cube(6.0, -0.3)])
    visible = visible_boxes(corners, lidar2img, (100, 100))
    assert visible.indices.tolist() == [1, 2, 0]
    np.testing.assert_allclose(visible.depth, [10, 6, 4])
    image = np.full((100, 100, 3), 10, dtype=np.uint8)
    crops = {1: np.full((5, 5, 3), 100, np.uint8), 2: np.full((9, 3, 3), 200, np.uint8)}
    painted = paste_crops(image, visible, crops, mixup_rate=-1)

    picture = np.full((100, 100), 10)
    for index in (1, 2):
        pixels = corners[index] @ lidar2img[:3, :3].T
        pixels = pixels[:, :2] / pixels[:, 2:]
        (left, top), (right, bottom) = pixels.min(0).astype(int), pixels.max(0).astype(int)
        picture[top:bottom, left:right] = 100 * index
    np.testing.assert_array_equal(painted[..., 0], picture)
    assert (image == 10).all()


def test_a_database_without_crops_pastes_points_and_says_so_once(
    make_sample, make_database, caplog
):
    info_path = make_database(image_crops=False)
    with caplog.at_level(logging.WARNING):
        logger = MMLogger.get_current_instance()
        logger.addHandler(caplog.handler)
        transform = pasting(info_path, sample_2d=True, mixup_rate=0.5)
        before = scene(make_sample)
        for _ in range(3):
            after = transform(scene(make_sample))
        logger.removeHandler(caplog.handler)
    assert len(after['gt_labels_3d']) > 3 and len(after['points']) != len(before['points'])
    np.testing.assert_array_equal(before['img'], after['img'])
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert len(warnings) == 1 and '--image-crops' in warnings[0]


def test_a_class_without_objects_is_left_out(make_sample, make_database):
    info_path = make_database()
    infos = pickle.loads(info_path.read_bytes())
    del infos['pedestrian']
    info_path.write_bytes(pickle.dumps(infos))
    after = pasting(info_path)(scene(make_sample))
    assert set(after['gt_labels_3d'].tolist()) == {0}


def test_objects_are_filtered_by_difficulty_and_points(make_database):
    info_path = make_database()
    infos = pickle.loads(info_path.read_bytes())
    for name in CLASSES:
        infos[name][0]['difficulty'] = -1
        infos[name][1]['num_points_in_gt'] = 4
    info_path.write_bytes(pickle.dumps(infos))
    entries = pasting(info_path).db_sampler.entries
    assert {name: len(found) for name, found in entries.items()} == dict(car=8, pedestrian=8)


@pytest.mark.parametrize('key', ['difficulty', 'path', 'box3d_lidar'])
def test_a_missing_key_of_the_database_is_named_with_the_command(make_database, key):
    info_path = make_database()
    infos = pickle.loads(info_path.read_bytes())
    del infos['car'][5][key]
    info_path.write_bytes(pickle.dumps(infos))
    with pytest.raises(
        ValueError, match=rf"(?s)of class car has no '{key}'.*tools/create_data.py"
    ):
        pasting(info_path)


@pytest.mark.parametrize('name', ['0.bin', '0.png'])
def test_a_missing_file_of_the_database_is_named_with_the_command(make_database, name):
    info_path = make_database()
    (info_path.parent / 'db' / name).unlink()
    with pytest.raises(ValueError, match=rf'(?s){name}.*does not exist.*tools/create_data.py'):
        pasting(info_path, sample_2d=True)


def test_a_file_lost_after_the_start_is_named_too(make_sample, make_database):
    info_path = make_database()
    transform = pasting(info_path)
    for path in (info_path.parent / 'db').glob('*.bin'):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r'(?s)\.bin.*tools/create_data.py'):
        transform(scene(make_sample))


def test_a_crop_that_cannot_be_decoded_is_named_too(make_sample, make_database):
    info_path = make_database()
    transform = pasting(info_path, sample_2d=True)
    for path in (info_path.parent / 'db').glob('*.png'):
        path.write_bytes(b'text')
    with pytest.raises(
        ValueError, match=r'(?s)\.png. \(4 bytes\) is not a readable image.*tools/create_data.py'
    ):
        transform(scene(make_sample))


def test_an_error_of_a_points_loader_of_the_user_is_told_with_the_command(
    make_sample, make_database
):
    transform = pasting(make_database())
    transform.db_sampler.points_loader = lambda results: b'\xff'.decode()  # UnicodeDecodeError
    with pytest.raises(ValueError, match=r"(?s)for pasting: 'utf-8'.*tools/create_data.py"):
        transform(scene(make_sample))


def test_a_missing_database_is_named_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'(?s)nothing.pkl.*tools/create_data.py'):
        pasting(tmp_path / 'nothing.pkl')


class CodeInAPickle:
    """What would be run by an unpickler that trusts the file."""

    def __reduce__(self):
        return pytest.fail, ('the code was run',)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (pickle.dumps([1, 2]), 'is not a database for pasting'),
        (pickle.dumps(dict(car=CodeInAPickle())), 'not plain data'),
        (pickle.dumps(dict(car=[]))[:9], 'cannot be read'),
    ],
)
def test_a_file_that_is_no_database_is_refused_and_none_of_it_is_run(tmp_path, content, message):
    (tmp_path / 'dbinfos.pkl').write_bytes(content)
    with pytest.raises((ValueError, InfoFileError), match=rf'(?s)dbinfos.pkl.*{message}'):
        pasting(tmp_path / 'dbinfos.pkl')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(mixup_rate=1.5), 'mixup_rate'),
        (dict(sampler=dict(sample_groups=dict(tram=2))), 'tram'),
        (dict(sampler=dict(prepare=dict(filter_by_size=1))), 'filter_by_size'),
    ],
)
def test_meaningless_arguments_are_refused(make_database, arguments, message):
    with pytest.raises(ValueError, match=message):
        pasting(make_database(), **arguments)


def test_points_of_another_width_are_refused(make_sample, make_database):
    loader = dict(type='LoadPointsFromFile', coord_type='LIDAR', load_dim=5, use_dim=4)
    with pytest.raises(ValueError, match='use_dim'):
        pasting(make_database(), dict(points_loader=loader))(scene(make_sample))

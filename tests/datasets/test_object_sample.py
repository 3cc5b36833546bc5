"""Pasting objects: boxes without collisions, their points, their pixels."""

import itertools
import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
from mmdet3d.structures.ops import box_np_ops
from mmengine.logging import MMLogger
from shapely.geometry import Polygon

from cmt_bias.datasets import UnifiedObjectSample
from cmt_bias.datasets.image_pasting import NO_OWNER, paste_crops, points_shown, visible_boxes

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


def scene(make_sample, seed: int = 0) -> dict:
    """A scene whose own objects are three cars, so that few pasted ones collide with them."""
    sample = make_sample(seed=seed, num_boxes=3, num_points=3000)
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


@pytest.mark.parametrize(('mixup_rate', 'weight'), [(-1, 1.0), (0.5, 0.5)])
def test_crops_of_the_same_camera_show_where_the_box_projects(
    make_sample, make_database, mixup_rate, weight
):
    transform = pasting(make_database(), sample_2d=True, mixup_rate=mixup_rate)
    before = make_sample(num_boxes=0)
    np.random.seed(1)
    after = transform(make_sample(num_boxes=0))
    boxes = after['gt_bboxes_3d']
    seen = 0
    for view, lidar2img in enumerate(after['lidar2img']):
        untouched = np.ones(after['img'][view].shape[:2], dtype=bool)
        centres = boxes.gravity_center.numpy() @ lidar2img[:3, :3].T + lidar2img[:3, 3]
        corners = boxes.corners.numpy() @ lidar2img[:3, :3].T + lidar2img[:3, 3]
        for centre, corner in zip(centres, corners, strict=True):
            pixels = corner[corner[:, 2] > 0, :2] / corner[corner[:, 2] > 0, 2:]
            if len(pixels):
                (left, top), (right, bottom) = pixels.min(0), pixels.max(0)
                untouched[
                    max(0, int(top)) : max(0, int(bottom) + 1),
                    max(0, int(left)) : max(0, int(right) + 1),
                ] = False
            u, v = (centre[:2] / centre[2]).astype(int)
            if (corner[:, 2] > 0).all() and 5 <= u < 155 and 5 <= v < 85:
                old, new = before['img'][view][v, u], after['img'][view][v, u].astype(float)
                seen += 1
                # The crops of this camera are (200 + object, 90 * view, 250); n of them may
                # overlap, so that the weight of the crops is 1 - (1 - weight)^n.
                shares = 1 - (1 - weight) ** np.arange(1, 6)
                blends = (
                    old[1:] * (1 - shares[:, None])
                    + np.array([90 * view, 250]) * (shares[:, None])
                )
                assert np.abs(blends - new[1:]).max(axis=1).min() <= 2
        np.testing.assert_array_equal(
            after['img'][view][untouched], before['img'][view][untouched]
        )
    assert seen >= 3


def test_the_nearer_object_covers_the_farther_one_whoever_owns_it():
    lidar2img = np.array([[100.0, 0, 50, 0], [0, 100, 50, 0], [0, 0, 1, 0], [0, 0, 0, 1]])

    def cube(depth: float, x: float) -> np.ndarray:
        signs = np.array(list(itertools.product((-0.5, 0.5), repeat=3)))
        return signs + np.array([x, 0, depth])

    # Own object 0 nearest, pasted 1 farthest, pasted 2 between them.
    corners = np.stack([cube(4.0, 0.4), cube(10.0, 0.0), cube(6.0, -0.3)])
    visible = visible_boxes(corners, lidar2img, (100, 100))
    assert visible.index.tolist() == [1, 2, 0]
    np.testing.assert_allclose(visible.depth, [10, 6, 4])
    image = np.full((100, 100, 3), 10, dtype=np.uint8)
    crops = {1: np.full((5, 5, 3), 100, np.uint8), 2: np.full((9, 3, 3), 200, np.uint8)}
    painted, owner = paste_crops(image, visible, crops, num_own=1, mixup_rate=-1)

    expected = np.full((100, 100), NO_OWNER)
    for index in (1, 2, 0):
        pixels = corners[index] @ lidar2img[:3, :3].T
        pixels = pixels[:, :2] / pixels[:, 2:]
        (left, top), (right, bottom) = np.floor(pixels.min(0)), np.ceil(pixels.max(0))
        expected[int(top) : int(bottom), int(left) : int(right)] = index
    np.testing.assert_array_equal(owner, expected)
    np.testing.assert_array_equal(
        painted[..., 0], np.select([owner == 1, owner == 2], [100, 200], 10)
    )
    assert (image == 10).all()

    points = np.array([[-2.0, 0, 20], [0.4, 0, 4], [-0.3, 0, 6], [0.1, 0, 10], [0, 0, -5]])
    owners = np.array([NO_OWNER, NO_OWNER, 2, 1, NO_OWNER])
    # An own point behind pasted object 2; one on the own object; the pasted one on itself; a
    # point of the farthest one hidden by the others; a point behind the camera.
    shown = points_shown(points, owners, owner, 1, lidar2img)
    assert shown.tolist() == [False, True, True, False, True]


def test_points_that_the_picture_contradicts_are_dropped_on_request(make_sample, make_database):
    info_path = make_database()
    np.random.seed(2)
    kept = pasting(info_path, sample_2d=True)(scene(make_sample))['points']
    np.random.seed(2)
    fewer = pasting(info_path, sample_2d=True, modify_points=True)(scene(make_sample))['points']
    assert 0 < len(fewer) < len(kept)
    rows = {tuple(row) for row in kept.tensor.numpy()}
    assert all(tuple(row) in rows for row in fewer.tensor.numpy())


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
    with pytest.raises(ValueError, match=rf"(?s)entry 5 .*no '{key}'.*tools/create_data.py"):
        pasting(info_path)


@pytest.mark.parametrize('name', ['0.bin', '0_1.png'])
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


def test_a_missing_database_is_named_with_the_command(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'(?s)nothing.pkl.*tools/create_data.py'):
        pasting(tmp_path / 'nothing.pkl')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (dict(mixup_rate=1.5), 'mixup_rate'),
        (dict(modify_points=True), 'sample_2d'),
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

"""The nuScenes devkit takes the synthetic dataset for nuScenes."""

import json
from collections import Counter

import cv2
import matplotlib
import numpy as np
from nuscenes import NuScenes
from nuscenes.eval.common.utils import quaternion_yaw
from nuscenes.eval.detection.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.utils import (
    category_to_detection_name,
    detection_name_to_rel_attributes,
)
from nuscenes.utils.data_classes import LidarPointCloud
from nuscenes.utils.geometry_utils import points_in_box, view_points
from nuscenes.utils.splits import create_splits_scenes
from PIL import Image
from pyquaternion import Quaternion

from nuscenes_synth import DatasetSettings, generate_dataset
from nuscenes_synth.catalog import DETECTION_CLASSES
from nuscenes_synth.rig import CAMERAS, LIDAR
from nuscenes_synth.scene_writer import count_points, plan_scene
from nuscenes_synth.tables import TABLE_NAMES

matplotlib.use('Agg')

# Columns of the tables in the nuScenes v1.0 schema (docs/schema_nuscenes.md of the devkit).
SCHEMA = {
    'attribute': {'token', 'name', 'description'},
    'calibrated_sensor': {'token', 'sensor_token', 'translation', 'rotation', 'camera_intrinsic'},
    'category': {'token', 'name', 'description'},
    'ego_pose': {'token', 'translation', 'rotation', 'timestamp'},
    'instance': {
        'token',
        'category_token',
        'nbr_annotations',
        'first_annotation_token',
        'last_annotation_token',
    },
    'log': {'token', 'logfile', 'vehicle', 'date_captured', 'location'},
    'map': {'token', 'log_tokens', 'category', 'filename'},
    'sample': {'token', 'timestamp', 'scene_token', 'next', 'prev'},
    'sample_annotation': {
        'token',
        'sample_token',
        'instance_token',
        'attribute_tokens',
        'visibility_token',
        'translation',
        'size',
        'rotation',
        'num_lidar_pts',
        'num_radar_pts',
        'next',
        'prev',
    },
    'sample_data': {
        'token',
        'sample_token',
        'ego_pose_token',
        'calibrated_sensor_token',
        'filename',
        'fileformat',
        'width',
        'height',
        'timestamp',
        'is_key_frame',
        'next',
        'prev',
    },
    'scene': {
        'token',
        'name',
        'description',
        'log_token',
        'nbr_samples',
        'first_sample_token',
        'last_sample_token',
    },
    'sensor': {'token', 'channel', 'modality'},
    'visibility': {'token', 'level', 'description'},
}


def test_tables_have_the_official_columns(smallest_nuscenes):
    assert set(SCHEMA) == set(TABLE_NAMES)
    for name, columns in SCHEMA.items():
        rows = json.loads((smallest_nuscenes / 'v1.0-trainval' / f'{name}.json').read_text())
        assert rows, name
        assert all(set(row) == columns for row in rows), name


def test_every_token_is_unique_and_every_reference_leads_somewhere(nusc):
    for name in TABLE_NAMES:
        rows = getattr(nusc, name)
        assert len({row['token'] for row in rows}) == len(rows), name
    for name in TABLE_NAMES:
        for row in getattr(nusc, name):
            for key, value in row.items():
                target = {'first_sample_token': 'sample', 'last_sample_token': 'sample'}.get(
                    key, key.removesuffix('_token')
                )
                if key.endswith('_token') and target in TABLE_NAMES:
                    assert nusc.get(target, value)


def test_scenes_have_official_names_and_are_linked_in_time(nusc, smallest_nuscenes_settings):
    splits = create_splits_scenes()
    assert nusc.scene[0]['name'] in splits['train']
    assert nusc.scene[1]['name'] in splits['val']
    for scene in nusc.scene:
        token, times = scene['first_sample_token'], []
        while token:
            sample = nusc.get('sample', token)
            times.append(sample['timestamp'])
            token, last = sample['next'], token
        assert last == scene['last_sample_token']
        assert len(times) == scene['nbr_samples'] == smallest_nuscenes_settings.samples_per_scene
        assert np.diff(times).tolist() == [500_000] * (len(times) - 1)


def test_lidar_chain_alternates_keyframes_and_sweeps(nusc):
    sample = nusc.get('sample', nusc.scene[0]['first_sample_token'])
    token, kinds, times = sample['data']['LIDAR_TOP'], [], []
    while token:
        record = nusc.get('sample_data', token)
        kinds.append(record['is_key_frame'])
        times.append(record['timestamp'])
        token = record['next']
    assert kinds == [True, False, True, False, True]
    assert np.diff(times).tolist() == [250_000] * 4


def test_every_sensor_file_is_there_and_has_its_stated_size(nusc):
    for record in nusc.sample_data:
        path = nusc.get_sample_data_path(record['token'])
        if record['fileformat'] == 'jpg':
            assert Image.open(path).size == (record['width'], record['height'])
        else:
            cloud = np.fromfile(path, dtype=np.float32).reshape(-1, 5)
            assert len(cloud) > 1000
            assert cloud[:, 3].min() >= 0 and cloud[:, 3].max() <= 255
            assert set(cloud[:, 4]) <= set(range(32))


def test_every_class_occurs_in_every_scene(nusc):
    for scene in nusc.scene:
        samples = {row['token'] for row in nusc.sample if row['scene_token'] == scene['token']}
        counts = Counter(
            category_to_detection_name(row['category_name'])
            for row in nusc.sample_annotation
            if row['sample_token'] in samples
        )
        assert set(DETECTION_CLASSES) <= set(counts)


def test_attributes_belong_to_the_class(nusc):
    for row in nusc.sample_annotation:
        names = [nusc.get('attribute', token)['name'] for token in row['attribute_tokens']]
        detection_name = category_to_detection_name(row['category_name'])
        allowed = detection_name_to_rel_attributes(detection_name) if detection_name else []
        assert len(names) == (1 if allowed else 0)
        assert set(names) <= set(allowed)


def test_num_lidar_pts_equals_the_devkit_count(nusc):
    for sample in nusc.sample:
        path, boxes, _ = nusc.get_sample_data(sample['data']['LIDAR_TOP'])
        cloud = LidarPointCloud.from_file(path)
        for box in boxes:
            expected = nusc.get('sample_annotation', box.token)['num_lidar_pts']
            assert points_in_box(box, cloud.points[:3]).sum() == expected > 0


def test_what_is_seen_and_has_a_category_is_annotated_and_what_misleads_is_not(
    nusc, smallest_nuscenes_settings
):
    plans = {plan.name: plan for plan in smallest_nuscenes_settings.scene_plans()}
    decoys = 0
    for scene in nusc.scene:
        planned = plan_scene(smallest_nuscenes_settings, plans[scene['name']])
        start = nusc.get('sample', scene['first_sample_token'])['timestamp']
        for sample in nusc.sample:
            if sample['scene_token'] != scene['token']:
                continue
            time = 1e-6 * (sample['timestamp'] - start)
            path = nusc.get_sample_data_path(sample['data']['LIDAR_TOP'])
            cloud = np.fromfile(path, dtype=np.float32).reshape(-1, 5)[:, :3]
            matrix = planned.world_from_ego(time) @ LIDAR.ego_from_sensor()
            cloud = cloud @ matrix[:3, :3].T + matrix[:3, 3]
            expected = Counter()
            poses = planned.actor_poses(time)
            for actor, (x, y, yaw) in zip(planned.actors, poses, strict=True):
                center = [round(float(v), 3) for v in (x, y, actor.size[2] / 2)]
                if count_points(cloud, center, actor.size, yaw):
                    expected[actor.category] += 1
            decoys += expected.pop('', 0)
            annotated = (nusc.get('sample_annotation', token) for token in sample['anns'])
            assert Counter(row['category_name'] for row in annotated) == expected
    assert decoys > 5


def test_velocity_is_that_of_the_track(nusc):
    """Displacement over one keyframe, against the devkit's central differences."""
    moving = 0
    for row in nusc.sample_annotation:
        if not (row['prev'] and row['next']):
            continue
        velocity = nusc.box_velocity(row['token'])
        later = nusc.get('sample_annotation', row['next'])
        elapsed = nusc.get('sample', later['sample_token'])['timestamp']
        elapsed -= nusc.get('sample', row['sample_token'])['timestamp']
        expected = (np.array(later['translation']) - row['translation']) / (1e-6 * elapsed)
        np.testing.assert_allclose(velocity, expected, atol=0.5)  # bends turn it a little
        moving += np.linalg.norm(velocity) > 0.5
    assert moving > 5


def test_moving_vehicles_face_their_velocity(nusc):
    for row in nusc.sample_annotation:
        velocity = nusc.box_velocity(row['token'])[:2]
        if np.linalg.norm(velocity) > 0.5:
            yaw = quaternion_yaw(Quaternion(row['rotation']))
            heading = np.array([np.cos(yaw), np.sin(yaw)])
            assert heading @ velocity / np.linalg.norm(velocity) > 0.97


def test_cones_are_orange_where_their_boxes_project(nusc):
    """The lower sleeve of every near, unhidden cone, a quarter of its height up, by day."""
    checked = 0
    for sample in nusc.sample:
        for camera in CAMERAS:
            path, boxes, intrinsics = nusc.get_sample_data(sample['data'][camera.channel])
            image = cv2.imread(path).astype(float)
            for box in boxes:
                row = nusc.get('sample_annotation', box.token)
                unhidden = row['visibility_token'] == '4'
                if not (unhidden and box.name.endswith('trafficcone') and box.center[2] < 12):
                    continue
                corners = box.corners()
                # The devkit lists the lower corners as 2, 3, 6 and 7.
                bottom, top = (corners[:, i].mean(axis=1) for i in ([2, 3, 6, 7], [0, 1, 4, 5]))
                sleeve = 0.75 * bottom + 0.25 * top
                u, v = view_points(sleeve[:, None], intrinsics, normalize=True)[:2, 0]
                if 3 < u < image.shape[1] - 3 and 3 < v < image.shape[0] - 3:
                    blue, _, red = image[int(v), int(u)]
                    assert red > blue + 30, (path, u, v)
                    checked += 1
    assert checked >= 5


def test_ground_truth_as_predictions_scores_full_marks(nusc, tmp_path):
    results = {}
    for sample in nusc.sample:
        scene = nusc.get('scene', sample['scene_token'])
        if scene['name'] not in create_splits_scenes()['val']:
            continue
        results[sample['token']] = [
            {
                'sample_token': sample['token'],
                'translation': row['translation'],
                'size': row['size'],
                'rotation': row['rotation'],
                'velocity': nusc.box_velocity(row['token'])[:2].tolist(),
                'detection_name': category_to_detection_name(row['category_name']),
                'detection_score': 1.0,
                'attribute_name': next(
                    (nusc.get('attribute', t)['name'] for t in row['attribute_tokens']), ''
                ),
            }
            for row in (nusc.get('sample_annotation', token) for token in sample['anns'])
            if category_to_detection_name(row['category_name'])
        ]
    meta = {f'use_{name}': False for name in ('camera', 'lidar', 'radar', 'map', 'external')}
    path = tmp_path / 'results.json'
    path.write_text(json.dumps({'meta': meta, 'results': results}))
    config = config_factory('detection_cvpr_2019')
    evaluation = DetectionEval(nusc, config, str(path), 'val', str(tmp_path), verbose=False)
    summary = evaluation.main(render_curves=False)
    assert summary['mean_ap'] > 0.99
    assert summary['nd_score'] > 0.99
    assert max(summary['tp_errors'].values()) < 0.01
    assert all(precision > 0.99 for precision in summary['mean_dist_aps'].values())


def test_render_sample_draws_all_sensors(nusc, tmp_path):
    path = tmp_path / 'sample.png'
    nusc.render_sample(nusc.sample[0]['token'], out_path=str(path), verbose=False)
    matplotlib.pyplot.close('all')
    picture = cv2.imread(str(path))
    assert min(picture.shape[:2]) > 300
    assert picture.std() > 20


def test_map_mask_is_set_where_the_ego_vehicle_drives(nusc):
    for record in nusc.sample_data:
        pose = nusc.get('ego_pose', record['ego_pose_token'])['translation']
        sample = nusc.get('sample', record['sample_token'])
        log = nusc.get('log', nusc.get('scene', sample['scene_token'])['log_token'])
        mask = nusc.get('map', log['map_token'])['mask']
        assert mask.is_on_mask(pose[0], pose[1])
        assert not mask.is_on_mask(pose[0] + 100.0, pose[1] + 100.0)


def test_descriptions_say_night_rain_and_fog(tmp_path):
    settings = DatasetSettings(
        train_scenes=5, val_scenes=1, samples_per_scene=2, image_scale=0.05, lidar_azimuths=90
    )
    generate_dataset(tmp_path, settings, show_progress=False)
    scenes = NuScenes('v1.0-trainval', str(tmp_path), verbose=False).scene
    first_words = [scene['description'].split(',')[0].lower() for scene in scenes]
    assert first_words == ['day', 'night', 'rain', 'day', 'fog', 'day']

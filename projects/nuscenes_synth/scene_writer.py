"""Record one synthetic scene: sensor files on disk and rows for the nuScenes tables."""

import os
from pathlib import Path

import cv2
import numpy as np

from .camera import LampLight, Renderer, rig_cameras, visible_shares
from .lidar import LidarSimulator
from .raycasting import RayCaster
from .rig import CAMERAS, LIDAR, rigid_transform
from .road import Road
from .scene import SyntheticScene, build_scene, draw_street
from .scenery import street_lamps
from .settings import KEYFRAME_INTERVAL, DatasetSettings, ScenePlan
from .tables import (
    Row,
    calibrated_sensor_rows,
    link_in_order,
    make_token,
    visibility_token,
)

_FIRST_TIMESTAMP = 1_532_402_927_000_000  # microseconds; the day of nuScenes' first logs
_SCENE_SPACING = 120_000_000
_JPEG_QUALITY = 92
# Last part of the random seeds: the scene's layout, then one stream a sensor and frame.
_LAYOUT_STREAM = 0
_SENSOR_STREAM = 1


def plan_scene(settings: DatasetSettings, plan: ScenePlan) -> SyntheticScene:
    """Build the scene that ``plan`` names; the same for the same settings."""
    return build_scene(_layout_rng(settings, plan), plan.origin, settings.scene_duration)


def plan_road(settings: DatasetSettings, plan: ScenePlan) -> Road:
    """Return the road of the scene that ``plan`` names, which is quick to build alone."""
    return draw_street(_layout_rng(settings, plan), plan.origin)[1]


def _layout_rng(settings: DatasetSettings, plan: ScenePlan) -> np.random.Generator:
    return np.random.default_rng([settings.seed, plan.number, _LAYOUT_STREAM])


class SceneWriter:
    """Drives through one scene and writes what the sensors see.

    Args:
        settings: Settings of the dataset.
        plan: The scene to write.
        root: Folder of the dataset.
    """

    def __init__(self, settings: DatasetSettings, plan: ScenePlan, root: Path) -> None:
        self._settings = settings
        self._plan = plan
        self._root = root
        self._scene = plan_scene(settings, plan)
        self._lamps = LampLight(street_lamps(self._scene.scenery))
        self._lidar = LidarSimulator(LIDAR, settings.lidar_azimuths)
        self._start = _FIRST_TIMESTAMP + plan.number * _SCENE_SPACING
        self._scene_token = make_token(settings.seed, settings.version, plan.name)
        self._logfile = f's{plan.number:04d}-2018-07-24-11-22-45+0800'
        self._rows: dict[str, list[Row]] = {
            name: [] for name in ('ego_pose', 'sample_data', 'sample', 'sample_annotation')
        }

    def write(self) -> dict[str, list[Row]]:
        """Write all sensor files and return the scene's rows by table name."""
        for keyframe in range(self._settings.samples_per_scene):
            self._write_keyframe(keyframe)
            if keyframe + 1 < self._settings.samples_per_scene:
                self._write_sweeps(keyframe)
        self._link_sensor_data()
        link_in_order(self._rows['sample'])
        self._rows['instance'] = self._instances()
        width, height = self._settings.image_size
        self._rows['calibrated_sensor'] = calibrated_sensor_rows(self._scene_token, width, height)
        self._rows['log'] = [self._log_row()]
        self._rows['scene'] = [self._scene_row()]
        return self._rows

    def _write_keyframe(self, keyframe: int) -> None:
        time = keyframe * KEYFRAME_INTERVAL
        sample_token = self._sample_token(keyframe)
        self._rows['sample'].append(
            {
                'token': sample_token,
                'timestamp': self._timestamp(time),
                'scene_token': self._scene_token,
            }
        )
        caster = self._ray_caster(time)
        cloud = self._write_scan(caster, time, sample_token, is_key_frame=True)
        visibility = self._write_images(caster, time, sample_token)
        self._annotate(time, sample_token, cloud, visibility)

    def _write_sweeps(self, keyframe: int) -> None:
        count = self._settings.sweeps
        for sweep in range(1, count + 1):
            share = sweep / (count + 1)
            nearest = keyframe if share < 0.5 else keyframe + 1
            time = (keyframe + share) * KEYFRAME_INTERVAL
            sample_token = self._sample_token(nearest)
            self._write_scan(self._ray_caster(time), time, sample_token, is_key_frame=False)

    def _ray_caster(self, time: float) -> RayCaster:
        return RayCaster(self._scene.solids(time, frame=self._scene.ego_pose(time)))

    def _write_scan(
        self, caster: RayCaster, time: float, sample_token: str, is_key_frame: bool
    ) -> np.ndarray:
        """Write one LiDAR revolution; return its (N, 5) points."""
        points = self._lidar.scan(caster, self._plan.weather, self._rng(time, 0))
        filename = self._add_sensor_data(LIDAR.channel, time, sample_token, is_key_frame)
        self._save(filename, points.tobytes())
        return points

    def _write_images(self, caster: RayCaster, time: float, sample_token: str) -> np.ndarray:
        """Write the six images; return the (num_actors,) visible share of each actor."""
        renderer = Renderer(
            caster,
            self._scene.ego_pose(time),
            self._scene.road,
            self._plan.weather,
            self._lamps,
        )
        cameras = rig_cameras(*self._settings.image_size)
        for number, (calibration, camera) in enumerate(zip(CAMERAS, cameras, strict=True), 1):
            image = renderer.render(camera, self._rng(time, number)).image
            filename = self._add_sensor_data(calibration.channel, time, sample_token, True)
            ok, encoded = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            if not ok:
                raise RuntimeError(f'OpenCV could not encode {filename}')
            self._save(filename, encoded.tobytes())
        return visible_shares(caster, cameras, len(self._scene.actors))

    def _annotate(
        self, time: float, sample_token: str, cloud: np.ndarray, visible_shares: np.ndarray
    ) -> None:
        """Append an annotation of every actor; those without a LiDAR point are dropped later."""
        scene = self._scene
        rows: list[Row] = []
        for index, (actor, pose) in enumerate(
            zip(scene.actors, scene.actor_poses(time), strict=True)
        ):
            if not actor.category:
                continue
            length, width, height = actor.size
            row: Row = {
                'token': make_token(sample_token, 'annotation', index),
                'sample_token': sample_token,
                'instance_token': make_token(self._scene_token, 'instance', index),
                'visibility_token': visibility_token(visible_shares[index]),
                'attribute_tokens': (
                    [make_token('attribute', actor.attribute)] if actor.attribute else []
                ),
                'translation': [round(float(v), 3) for v in (pose[0], pose[1], height / 2)],
                'size': [width, length, height],
                'rotation': _yaw_quaternion(pose[2]),
                'num_radar_pts': 0,
            }
            rows.append(row)
        token = self._lidar_pose_token(time)
        ego_pose = next(row for row in self._rows['ego_pose'] if row['token'] == token)
        for row, count in zip(rows, count_points(rows, ego_pose, cloud), strict=True):
            row['num_lidar_pts'] = count
        self._rows['sample_annotation'].extend(rows)

    def _instances(self) -> list[Row]:
        """Keep the annotations that hold a LiDAR point, link them and list the instances."""
        tracks: dict[str, list[Row]] = {}
        for row in self._rows['sample_annotation']:
            tracks.setdefault(row['instance_token'], []).append(row)
        instances: list[Row] = []
        annotations: list[Row] = []
        annotated = [actor for actor in self._scene.actors if actor.category]
        for actor, (token, track) in zip(annotated, tracks.items(), strict=True):
            kept = [row for row in track if row['num_lidar_pts'] > 0]
            if not kept:
                continue
            link_in_order(kept)
            annotations.extend(kept)
            instances.append(
                {
                    'token': token,
                    'category_token': make_token('category', actor.category),
                    'nbr_annotations': len(kept),
                    'first_annotation_token': kept[0]['token'],
                    'last_annotation_token': kept[-1]['token'],
                }
            )
        self._rows['sample_annotation'] = annotations
        return instances

    def _add_sensor_data(
        self, channel: str, time: float, sample_token: str, is_key_frame: bool
    ) -> str:
        """Append the rows of one recording; return its file name below the root."""
        is_lidar = channel == LIDAR.channel
        timestamp = self._timestamp(time)
        token = make_token(self._scene_token, channel, timestamp)
        folder = 'samples' if is_key_frame else 'sweeps'
        suffix = 'pcd.bin' if is_lidar else 'jpg'
        filename = f'{folder}/{channel}/{self._logfile}__{channel}__{timestamp}.{suffix}'
        width, height = (0, 0) if is_lidar else self._settings.image_size
        self._rows['sample_data'].append(
            {
                'token': token,
                'sample_token': sample_token,
                'ego_pose_token': token,
                'calibrated_sensor_token': make_token(
                    self._scene_token, 'calibrated_sensor', channel
                ),
                'timestamp': timestamp,
                'fileformat': 'pcd' if is_lidar else 'jpg',
                'is_key_frame': is_key_frame,
                'height': height,
                'width': width,
                'filename': filename,
            }
        )
        x, y, yaw = self._scene.ego_pose(time)
        self._rows['ego_pose'].append(
            {
                'token': token,
                'timestamp': timestamp,
                'rotation': _yaw_quaternion(yaw),
                'translation': [float(x), float(y), 0.0],
            }
        )
        return filename

    def _link_sensor_data(self) -> None:
        for calibration in (*CAMERAS, LIDAR):
            token = make_token(self._scene_token, 'calibrated_sensor', calibration.channel)
            link_in_order(
                sorted(
                    (
                        row
                        for row in self._rows['sample_data']
                        if row['calibrated_sensor_token'] == token
                    ),
                    key=lambda row: row['timestamp'],
                )
            )

    def _log_row(self) -> Row:
        return {
            'token': make_token(self._scene_token, 'log'),
            'logfile': self._logfile,
            'vehicle': 's000',
            'date_captured': '2018-07-24',
            'location': self._plan.location,
        }

    def _scene_row(self) -> Row:
        samples = self._rows['sample']
        return {
            'token': self._scene_token,
            'log_token': make_token(self._scene_token, 'log'),
            'nbr_samples': len(samples),
            'first_sample_token': samples[0]['token'],
            'last_sample_token': samples[-1]['token'],
            'name': self._plan.name,
            'description': f'{self._plan.weather.description} (synthetic)',
        }

    def _save(self, filename: str, content: bytes) -> None:
        # Not atomic one by one: a scene whose rows are missing is written again as a whole.
        (self._root / filename).write_bytes(content)

    def _timestamp(self, time: float) -> int:
        return self._start + round(time * 1e6)

    def _sample_token(self, keyframe: int) -> str:
        return make_token(self._scene_token, 'sample', keyframe)

    def _lidar_pose_token(self, time: float) -> str:
        return make_token(self._scene_token, LIDAR.channel, self._timestamp(time))

    def _rng(self, time: float, sensor: int) -> np.random.Generator:
        return np.random.default_rng(
            [self._settings.seed, self._plan.number, _SENSOR_STREAM, round(time * 1e6), sensor]
        )


def count_points(annotations: list[Row], ego_pose: Row, cloud: np.ndarray) -> list[int]:
    """Count the points in annotated boxes as the nuScenes devkit does, all boxes at once.

    Args:
        annotations: Rows with ``translation``, ``size`` (w, l, h) and ``rotation`` about z.
        ego_pose: Row of the vehicle's pose at the time of the cloud.
        cloud: (N, 5) float32 points in the LiDAR frame.
    """
    world_from_lidar = rigid_transform(ego_pose['rotation'], ego_pose['translation'])
    world_from_lidar = world_from_lidar @ LIDAR.ego_from_sensor()
    rotation, translation = world_from_lidar[:3, :3], world_from_lidar[:3, 3]
    level_x, level_y = np.ascontiguousarray(cloud[:, :2].T)
    counts = []
    for row in annotations:
        width, length, height = row['size']
        center = rotation.T @ (np.array(row['translation']) - translation)
        reach = 0.5 * float(np.hypot(np.hypot(width, length), height)) + 0.01
        near = np.flatnonzero(
            (np.abs(level_x - center[0]) < reach) & (np.abs(level_y - center[1]) < reach)
        )
        box_from_lidar = rigid_transform(row['rotation'], (0.0, 0.0, 0.0))[:3, :3].T @ rotation
        local = np.abs((cloud[near, :3] - center) @ box_from_lidar.T)
        inside = (local <= np.array([length, width, height]) / 2).all(axis=1)
        counts.append(int(np.count_nonzero(inside)))
    return counts


def make_sensor_folders(root: Path) -> None:
    """Create the folders that the sensor files go to."""
    for calibration in (*CAMERAS, LIDAR):
        os.makedirs(root / 'samples' / calibration.channel, exist_ok=True)
    os.makedirs(root / 'sweeps' / LIDAR.channel, exist_ok=True)


def _yaw_quaternion(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]

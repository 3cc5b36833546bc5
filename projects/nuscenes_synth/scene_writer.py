"""Record one synthetic scene: sensor files on disk and rows for the nuScenes tables."""

from itertools import groupby
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from .camera import LampLight, Renderer, rig_cameras, visible_shares
from .lidar import LidarSimulator
from .raycasting import RayCaster
from .rig import CAMERAS, LIDAR
from .road import Road
from .scene import SyntheticScene, build_scene, draw_drive
from .scenery import street_lamps
from .settings import KEYFRAME_INTERVAL, DatasetSettings, ScenePlan
from .tables import Row, calibrated_sensor_rows, link_in_order, make_token, visibility_token
from .tracks import Motion

_FIRST_TIMESTAMP = 1_532_402_927_000_000  # microseconds; the day of nuScenes' first logs
_SCENE_SPACING = 120_000_000
_JPEG_QUALITY = 92
# Last part of the random seeds: the scene's layout, then one stream a sensor and frame.
_LAYOUT_STREAM = 0
_SENSOR_STREAM = 1


def plan_scene(settings: DatasetSettings, plan: ScenePlan) -> SyntheticScene:
    """Build the scene that ``plan`` names; the same for the same settings."""
    return build_scene(_layout_rng(settings, plan), plan.origin, settings.scene_duration)


def plan_drive(settings: DatasetSettings, plan: ScenePlan) -> tuple[Road, Motion]:
    """Return road and drive of the scene that ``plan`` names, which are quick to draw alone."""
    return draw_drive(_layout_rng(settings, plan), plan.origin, settings.scene_duration)


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
        self._token = make_token(settings.seed, settings.version, plan.name)
        self._logfile = f's{plan.number:04d}-2018-07-24-11-22-45+0800'
        self._rows: dict[str, list[Row]] = {
            name: [] for name in ('ego_pose', 'sample_data', 'sample', 'sample_annotation')
        }

    def write(self) -> dict[str, list[Row]]:
        """Write all sensor files and return the scene's rows by table name."""
        last = self._settings.samples_per_scene - 1
        steps = self._settings.sweeps + 1  # from one keyframe to the next
        for step in range(last * steps + 1):
            keyframe, sweep = divmod(step, steps)
            nearest = keyframe if sweep < steps / 2 else keyframe + 1
            time = step / steps * KEYFRAME_INTERVAL
            token = make_token(self._token, 'sample', nearest)
            frame = self._scene.ego_pose(time)
            caster = RayCaster(self._scene.solids(time, frame))
            cloud = self._write_scan(caster, time, token, is_key_frame=not sweep)
            if not sweep:
                sample = {'timestamp': self._timestamp(time), 'scene_token': self._token}
                self._rows['sample'].append({'token': token, **sample})
                shares = self._write_images(caster, time, token)
                self._annotate(time, token, cloud, shares)
        link_in_order(self._rows['sample'])
        self._link_sensor_data()
        self._rows['instance'] = self._instances()
        self._rows['calibrated_sensor'] = calibrated_sensor_rows(
            self._token, *self._settings.image_size
        )
        self._rows['log'], self._rows['scene'] = [self._log_row()], [self._scene_row()]
        return self._rows

    def _write_scan(
        self, caster: RayCaster, time: float, sample_token: str, is_key_frame: bool
    ) -> np.ndarray:
        """Write one LiDAR revolution; return its (N, 5) points."""
        points = self._lidar.scan(caster, self._plan.weather, self._rng(time, 0))
        self._save(LIDAR.channel, time, sample_token, is_key_frame, points.tobytes())
        return points

    def _write_images(self, caster: RayCaster, time: float, sample_token: str) -> np.ndarray:
        """Write the six images; return the (num_actors,) visible share of each actor."""
        scene = self._scene
        frame = scene.ego_pose(time)
        renderer = Renderer(caster, frame, scene.road, self._plan.weather, self._lamps)
        cameras = rig_cameras(*self._settings.image_size)
        for number, (calibration, camera) in enumerate(zip(CAMERAS, cameras, strict=True), 1):
            image, _ = renderer.render(camera, self._rng(time, number))
            ok, encoded = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
            if not ok:
                raise RuntimeError(f'OpenCV could not encode an image of {self._plan.name}')
            self._save(calibration.channel, time, sample_token, True, encoded.tobytes())
        return visible_shares(caster, cameras, len(scene.actors))

    def _annotate(
        self, time: float, sample_token: str, cloud: np.ndarray, shares: np.ndarray
    ) -> None:
        """Append an annotation of every actor; those without a LiDAR point are dropped later."""
        world_from_lidar = self._scene.world_from_ego(time) @ LIDAR.ego_from_sensor()
        world_cloud = cloud[:, :3] @ world_from_lidar[:3, :3].T + world_from_lidar[:3, 3]
        world_cloud = np.asfortranarray(world_cloud)
        for index, (actor, pose) in enumerate(
            zip(self._scene.actors, self._scene.actor_poses(time), strict=True)
        ):
            if not actor.category:
                continue
            length, width, height = actor.size
            center = [round(float(v), 3) for v in (pose[0], pose[1], height / 2)]
            attribute = [make_token('attribute', actor.attribute)] if actor.attribute else []
            self._rows['sample_annotation'].append(
                {
                    'token': make_token(sample_token, 'annotation', index),
                    'sample_token': sample_token,
                    'instance_token': make_token(self._token, 'instance', index),
                    'visibility_token': visibility_token(shares[index]),
                    'attribute_tokens': attribute,
                    'translation': center,
                    'size': [width, length, height],
                    'rotation': _yaw_quaternion(pose[2]),
                    'num_radar_pts': 0,
                    'num_lidar_pts': count_points(world_cloud, center, actor.size, pose[2]),
                }
            )

    def _instances(self) -> list[Row]:
        """Keep the annotations that hold a LiDAR point, link them and list the instances."""
        categories = {
            make_token(self._token, 'instance', index): make_token('category', actor.category)
            for index, actor in enumerate(self._scene.actors)
        }
        tracks: dict[str, list[Row]] = {token: [] for token in categories}
        for row in self._rows['sample_annotation']:
            if row['num_lidar_pts'] > 0:
                tracks[row['instance_token']].append(row)
        for track in tracks.values():
            link_in_order(track)
        self._rows['sample_annotation'] = [row for track in tracks.values() for row in track]
        return [
            {
                'token': token,
                'category_token': categories[token],
                'nbr_annotations': len(track),
                'first_annotation_token': track[0]['token'],
                'last_annotation_token': track[-1]['token'],
            }
            for token, track in tracks.items()
            if track
        ]

    def _save(
        self, channel: str, time: float, sample_token: str, is_key_frame: bool, content: bytes
    ) -> None:
        """Write the file of one recording and append its rows."""
        is_lidar = channel == LIDAR.channel
        timestamp = self._timestamp(time)
        token = make_token(self._token, channel, timestamp)
        folder = 'samples' if is_key_frame else 'sweeps'
        suffix = 'pcd.bin' if is_lidar else 'jpg'
        filename = f'{folder}/{channel}/{self._logfile}__{channel}__{timestamp}.{suffix}'
        # Not atomic one by one: a scene whose rows are missing is written again as a whole.
        (self._root / filename).write_bytes(content)
        width, height = (0, 0) if is_lidar else self._settings.image_size
        self._rows['sample_data'].append(
            {
                'token': token,
                'sample_token': sample_token,
                'ego_pose_token': token,
                'calibrated_sensor_token': make_token(self._token, 'calibrated_sensor', channel),
                'timestamp': timestamp,
                'fileformat': 'pcd' if is_lidar else 'jpg',
                'is_key_frame': is_key_frame,
                'height': height,
                'width': width,
                'filename': filename,
            }
        )
        x, y, yaw = self._scene.ego_pose(time)
        pose = {'rotation': _yaw_quaternion(yaw), 'translation': [float(x), float(y), 0.0]}
        self._rows['ego_pose'].append({'token': token, 'timestamp': timestamp, **pose})

    def _link_sensor_data(self) -> None:
        def sensor(row: Row) -> Any:
            return row['calibrated_sensor_token']

        in_time = sorted(self._rows['sample_data'], key=lambda row: row['timestamp'])
        for _, rows in groupby(sorted(in_time, key=sensor), sensor):
            link_in_order(list(rows))

    def _log_row(self) -> Row:
        return {
            'token': make_token(self._token, 'log'),
            'logfile': self._logfile,
            'vehicle': 's000',
            'date_captured': '2018-07-24',
            'location': self._plan.location,
        }

    def _scene_row(self) -> Row:
        samples = self._rows['sample']
        return {
            'token': self._token,
            'log_token': make_token(self._token, 'log'),
            'nbr_samples': len(samples),
            'first_sample_token': samples[0]['token'],
            'last_sample_token': samples[-1]['token'],
            'name': self._plan.name,
            'description': f'{self._plan.weather.description} (synthetic)',
        }

    def _timestamp(self, time: float) -> int:
        return _FIRST_TIMESTAMP + self._plan.number * _SCENE_SPACING + round(time * 1e6)

    def _rng(self, time: float, sensor: int) -> np.random.Generator:
        return np.random.default_rng(
            [self._settings.seed, self._plan.number, _SENSOR_STREAM, round(time * 1e6), sensor]
        )


def count_points(
    cloud: np.ndarray, center: list[float], size: tuple[float, float, float], yaw: float
) -> int:
    """Count the (N, 3) world points in one box, as the nuScenes devkit does but much quicker.

    Args:
        cloud: Points in the world, metres.
        center: World x, y, z of the box's centre.
        size: Length, width and height.
        yaw: Heading of the box.
    """
    length, width, height = size
    # Comparing costs less than rotating: first the square around the box.
    near = np.abs(cloud[:, 0] - center[0]) <= (length + width) / 2
    near &= np.abs(cloud[:, 1] - center[1]) <= (length + width) / 2
    x, y, z = (cloud[near] - center).T
    cos, sin = np.cos(yaw), np.sin(yaw)
    inside = np.abs(cos * x + sin * y) <= length / 2
    inside &= np.abs(cos * y - sin * x) <= width / 2
    inside &= np.abs(z) <= height / 2
    return int(np.count_nonzero(inside))


def _yaw_quaternion(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]

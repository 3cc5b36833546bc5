"""Load past LiDAR sweeps into the LiDAR frame of the keyframe."""

import numpy as np
from mmdet3d.datasets.transforms import LoadPointsFromMultiSweeps
from mmdet3d.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadAlignedSweeps(LoadPointsFromMultiSweeps):
    """mmdet3d's ``LoadPointsFromMultiSweeps`` with the sweeps in their right place.

    ``lidar2sensor`` of the info file takes a point q of the keyframe's LiDAR frame to ``p = R q +
    t`` in the sweep's. The way back is ``(p - t) @ R`` (rows), and so did mmdet3d up to 1.0. Its
    version 1.4.0 computes ``p @ R - t`` (``mmdet3d/datasets/transforms/loading.py``, lines 442 to
    445), which shifts a sweep by ``t @ R - t``: nothing when the vehicle drives straight, 0.6 m
    for a sweep of half a second ago at 20 degrees/s and 7 m/s.

    The arguments are those of the stock class. Of more than ``sweeps_num`` sweeps a random choice
    is loaded, with ``test_mode`` the latest ones.
    """

    def transform(self, results: dict) -> dict:
        """Add the sweeps to ``points``, whose fifth column becomes the age in seconds.

        Args:
            results: The sample, with ``points`` of the keyframe, ``timestamp`` in seconds and
                ``lidar_sweeps`` if it has any.

        Returns:
            The sample with all points, in metres, LiDAR frame of the keyframe.
        """
        keyframe = results['points']
        keyframe.tensor[:, 4] = 0
        clouds = [keyframe]
        sweeps = results.get('lidar_sweeps') or []
        if not sweeps and self.pad_empty_sweeps:
            copy = self._remove_close(keyframe) if self.remove_close else keyframe
            clouds += [copy] * self.sweeps_num
        chosen = np.arange(min(len(sweeps), self.sweeps_num))  # the latest
        if len(sweeps) > self.sweeps_num and not self.test_mode:
            chosen = np.asarray(np.random.choice(len(sweeps), self.sweeps_num, replace=False))
        for index in chosen:
            sweep = sweeps[index]
            points = self._load_points(sweep['lidar_points']['lidar_path'])
            points = points.reshape(-1, self.load_dim).copy()
            if self.remove_close:
                points = self._remove_close(points)
            lidar2sensor = np.array(sweep['lidar_points']['lidar2sensor'])
            points[:, :3] = (points[:, :3] - lidar2sensor[:3, 3]) @ lidar2sensor[:3, :3]
            points[:, 4] = results['timestamp'] - sweep['timestamp']
            clouds.append(keyframe.new_point(points))
        results['points'] = keyframe.cat(clouds)[:, self.use_dim]
        return results

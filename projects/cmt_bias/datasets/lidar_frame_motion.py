"""Keep the camera matrices right when the LiDAR frame of a sample is moved."""

import numpy as np


def move_lidar_frame(results: dict, motion: np.ndarray) -> None:
    """Record that every point p of the LiDAR frame has become ``motion @ p``.

    The images do not change, so a matrix M that took the old frame to a camera has to take the
    new one there: ``M @ inverse(motion)``. The total of all motions is kept in
    ``results['lidar_aug_matrix']`` (4, 4).

    Args:
        results: Sample in a pipeline; ``lidar2img`` and ``lidar2cam`` (V, 4, 4) are replaced.
        motion: Affine matrix (4, 4), metres, from the old LiDAR frame to the new one.

    Raises:
        KeyError: If there are images but no ``lidar2img``.
    """
    if 'img' in results and 'lidar2img' not in results:
        raise KeyError(
            "the sample has images but no 'lidar2img', which this augmentation must update; "
            'load the images with LoadCalibratedMultiViewImages'
        )
    inverse = np.linalg.inv(motion)
    for key in ('lidar2img', 'lidar2cam'):
        if key in results:
            results[key] = np.asarray(results[key], dtype=np.float64) @ inverse
    results['lidar_aug_matrix'] = motion @ results.get('lidar_aug_matrix', np.eye(4))

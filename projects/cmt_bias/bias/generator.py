"""From trust to an additive bias on cross-attention."""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..cmt.position_encoding import CameraGeometry
from ..cmt.precision import float32_island
from ..ops import MODALITIES, QueryWindows, TokenLayout, Window, WindowedBias
from ..ops.operator import is_compiling
from .scale import CONFIG_KEY, BiasScale
from .windows import find_windows

# Float arithmetic may leave a weight this far outside its range.
WEIGHT_TOLERANCE = 1e-6


class AttentionBiasGenerator(BiasScale):
    """Turn trust weights of LiDAR and cameras into a bias on cross-attention.

    The bias of query q on token k of modality m in decoder layer l is
    ``scale[l, m] * weight_m(q) * gain(k, q)``, where the gain is the profile of a window around
    the query's own cell: in the BEV map, and in every view that sees the reference point.

    Args:
        lidar_window: Odd number of BEV cells along a window's side; None for the whole map.
        camera_window: Odd number of camera feature cells; None for all views.
        window_shape: 'uniform' (gain 1 in the window) or 'gaussian'.
        sigma: Cells, of a Gaussian window, one number or ``(LiDAR, camera)``; a quarter of the
            window's size by default.
        scale: Arguments of :class:`BiasScale`.

    Raises:
        ValueError: If a value is not possible; names the key and the remedy.
    """

    def __init__(
        self,
        *args: Any,
        lidar_window: int | None = 5,
        camera_window: int | None = 15,
        window_shape: Literal['uniform', 'gaussian'] = 'uniform',
        sigma: float | tuple[float, float] | None = None,
        **scale: Any,
    ) -> None:
        super().__init__(*args, **scale)
        self.window_shapes = _window_shapes((lidar_window, camera_window), window_shape, sigma)
        self._has_run = False

    def find_windows(
        self,
        reference_points: Tensor,
        layout: TokenLayout,
        cameras: CameraGeometry | None,
        pc_range: Sequence[float],
    ) -> QueryWindows:
        """The windows of a batch's queries; arguments as for :func:`find_windows`."""
        with float32_island(reference_points):
            return find_windows(reference_points, layout, cameras, pc_range, self.window_shapes)

    def forward(
        self, windows: QueryWindows, lidar_weights: Tensor, camera_weights: Tensor
    ) -> list[WindowedBias]:
        """Make the bias of a batch.

        Args:
            windows: Result of :meth:`find_windows`.
            lidar_weights: ``(B, Q)`` trust in the LiDAR, in [-1, 1].
            camera_weights: ``(B, Q)`` trust in the cameras, in [-1, 1].

        Returns:
            The bias of each decoder layer; one bias for all where layers do not differ.

        Raises:
            ValueError: If weights have another shape, or lie outside [-1, 1].
        """
        self._check_weights(windows.cells.shape[:2], lidar_weights, camera_weights)
        self.project_into_range()
        with float32_island(lidar_weights):
            scale = self.scale_of_modalities()
            weights = torch.stack((lidar_weights, camera_weights), dim=-1)  # (B, Q, 2)
            weights = weights.to(torch.promote_types(weights.dtype, scale.dtype))
            scales = scale.unbind(0) if 'layer' in self.scale_granularity else [scale]
            return [WindowedBias(windows, weights * of_layer) for of_layer in scales]

    def _check_weights(self, shape: torch.Size, *weights_of: Tensor) -> None:
        """Check shapes, and sizes where that waits for no accelerator: there the first batch's."""
        for modality, weights in zip(MODALITIES, weights_of, strict=True):
            if weights.shape != shape:
                raise ValueError(
                    f'weight_generator: {modality}_weights have the shape {tuple(weights.shape)}, '
                    f'(batch, queries) = {tuple(shape)} is needed.'
                )
            if is_compiling() or (self._has_run and weights.device.type != 'cpu'):
                continue
            largest = float(weights.detach().abs().max()) if weights.numel() else 0.0
            if largest > 1 + WEIGHT_TOLERANCE:  # NaN is not: it comes from elsewhere
                raise ValueError(
                    f'weight_generator: {modality}_weights reach {largest:g} in size, they must '
                    'lie in [-1, 1]; end the weight generator with tanh.'
                )
        self._has_run = True

    def extra_repr(self) -> str:
        """Settings, for ``print(model)``."""
        lidar, camera = (window.size for window in self.window_shapes)
        return f'{super().extra_repr()}, lidar_window={lidar}, camera_window={camera}'


def _window_shapes(
    sizes: tuple[int | None, int | None],
    window_shape: str,
    sigma: float | tuple[float, float] | None,
) -> tuple[Window, Window]:
    """Checked windows of LiDAR and cameras."""
    if window_shape not in ('uniform', 'gaussian'):
        raise ValueError(
            f"{CONFIG_KEY}: window_shape={window_shape!r} is unknown; choose 'uniform' or "
            "'gaussian'."
        )
    if sigma is not None and window_shape == 'uniform':
        raise ValueError(
            f"{CONFIG_KEY}: sigma={sigma} has no effect with window_shape='uniform'; remove it or "
            "set window_shape='gaussian'."
        )
    sigmas = tuple(sigma) if isinstance(sigma, (tuple, list)) else (sigma, sigma)
    if len(sigmas) != 2 or any(v is not None and not 0 < v < math.inf for v in sigmas):
        raise ValueError(
            f'{CONFIG_KEY}: sigma={sigma} must be positive, in cells: one number or (LiDAR, '
            'camera).'
        )
    windows = []
    for modality, size, width in zip(MODALITIES, sizes, sigmas, strict=True):
        if size is None:
            windows.append(Window(None))
            continue
        if not isinstance(size, int) or size <= 0 or size % 2 == 0:
            raise ValueError(
                f'{CONFIG_KEY}: {modality}_window={size} must be an odd positive number of cells, '
                'so that a window has a middle cell; or None for the whole modality.'
            )
        gaussian = window_shape == 'gaussian'
        windows.append(Window(size // 2, (width or size / 4) if gaussian else None))
    return windows[0], windows[1]

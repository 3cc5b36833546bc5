"""From trust to an additive bias on cross-attention."""

import math
from dataclasses import replace
from typing import Any, Literal

import torch

from ..cmt.precision import autocast_off
from ..ops import MODALITIES, Window, WindowedBias
from .scale import CONFIG_KEY, BiasScale


class AttentionBiasGenerator(BiasScale):
    """Turn trust of each query in LiDAR and cameras into a bias on cross-attention.

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

    def forward(self, trust: WindowedBias) -> WindowedBias:
        """The bias of a batch, whose ``trust`` has weights in [-1, 1] as strengths ``(B, Q, 2)``.

        Where layers differ it has strengths ``(L, B, Q, 2)``.
        """
        self.project_into_range()
        with autocast_off(trust.strength):
            scale = self.scale_of_modalities()
            if 'layer' in self.scale_granularity:
                scale = scale[:, None, None]  # (L, 1, 1, 2)
            weights = trust.strength.to(torch.promote_types(trust.strength.dtype, scale.dtype))
            return replace(trust, strength=weights * scale)


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
    is_gaussian = window_shape == 'gaussian'
    if sigma is not None and not is_gaussian:
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
        elif not isinstance(size, int) or size <= 0 or size % 2 == 0:
            raise ValueError(
                f'{CONFIG_KEY}: {modality}_window={size} must be an odd positive number of cells, '
                'so that a window has a middle cell; or None for the whole modality.'
            )
        else:
            windows.append(Window(size // 2, (width or size / 4) if is_gaussian else None))
    return windows[0], windows[1]

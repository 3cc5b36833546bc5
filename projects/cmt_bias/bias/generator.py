"""From trust weights to an additive bias on cross-attention, with a fixed or learned scale."""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from mmdet3d.registry import MODELS
from torch import Tensor, nn

from ..cmt.precision import float32_island
from .attention_bias import AttentionBias, SegmentBias
from .scale import clamp_with_inward_gradient
from .windows import MODALITIES, Windows, WindowShape, find_windows

ScaleGranularity = Literal['shared', 'modality', 'layer', 'layer_modality']
SCALE_GRANULARITIES: tuple[str, ...] = get_args(ScaleGranularity)

# Float arithmetic may leave a weight this far outside its range.
WEIGHT_TOLERANCE = 1e-6


@MODELS.register_module()
class AttentionBiasGenerator(nn.Module):
    """Turn trust weights of LiDAR and cameras into a bias on cross-attention.

    The bias of query q on token k of modality m in decoder layer l is
    ``scale[l, m] * weight_m(q) * gain(k, q)``, where the gain is the profile of a window around
    the query's own cell: in the BEV map, and in every view that sees the reference point.

    The scale is the parameter (or, not learned, the buffer) ``bias_scale``.

    Args:
        bias_scale: Start value of the scale.
        learnable_scale: Learn the scale with the detector.
        scale_granularity: 'shared' (one scale, shape ``()``), 'modality' (``(2,)``, LiDAR and
            camera), 'layer' (``(L,)``) or 'layer_modality' (``(L, 2)``).
        num_layers: Decoder layers L; needed where layers differ.
        min_scale: Lower bound of the scale in effect; None for none.
        max_scale: Upper bound of the scale in effect; None for none.
        lidar_window: Odd number of BEV cells along a window's side; None for the whole map.
        camera_window: Odd number of camera feature cells; None for all views.
        window_shape: 'uniform' (gain 1 in the window) or 'gaussian'.
        sigma: Cells, of a Gaussian window, one number or ``(LiDAR, camera)``; a quarter of the
            window's size by default.

    Raises:
        ValueError: If a value is not possible; names the key and the remedy.
    """

    bias_scale: Tensor
    scale_range: Tensor
    scale_axes: Tensor

    def __init__(
        self,
        bias_scale: float = 2.5,
        learnable_scale: bool = False,
        scale_granularity: ScaleGranularity = 'shared',
        num_layers: int | None = None,
        min_scale: float | None = None,
        max_scale: float | None = None,
        lidar_window: int | None = 5,
        camera_window: int | None = 15,
        window_shape: Literal['uniform', 'gaussian'] = 'uniform',
        sigma: float | tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.learnable_scale = learnable_scale
        self.scale_granularity = scale_granularity
        self.range_is_configured = min_scale is not None or max_scale is not None
        self.lidar_window, self.camera_window = _window_shapes(
            (lidar_window, camera_window), window_shape, sigma
        )
        scale = torch.full(_scale_shape(scale_granularity, num_layers), float(bias_scale))
        if learnable_scale:
            self.bias_scale = nn.Parameter(scale)
        else:
            self.register_buffer('bias_scale', scale)
        self.register_buffer('scale_range', torch.tensor((-torch.inf, torch.inf)))
        # Tells (L,) from (2,) in a checkpoint where a decoder has two layers.
        axes = ('layer' in scale_granularity, 'modality' in scale_granularity)
        self.register_buffer('scale_axes', torch.tensor(axes))
        self.set_scale_range(min_scale, max_scale)
        if not self._is_in_range(float(bias_scale)):
            raise ValueError(
                f'{_KEY}: bias_scale={bias_scale} is outside [min_scale={min_scale}, max_scale='
                f'{max_scale}]; start inside the range or widen it.'
            )

    def _is_in_range(self, scale: float) -> bool:
        low, high = self.scale_range.tolist()
        return low <= scale <= high

    def set_scale_range(self, low: float | None, high: float | None) -> None:
        """Change the range that holds for the scale in effect; None for no bound.

        Raises:
            ValueError: If ``low`` is not less than ``high``.
        """
        if low is not None and high is not None and low >= high:
            raise ValueError(
                f'{_KEY}: min_scale={low} must be less than max_scale={high}; swap them, or set '
                'learnable_scale=False to hold the scale fixed.'
            )
        self.scale_range[0] = -torch.inf if low is None else low
        self.scale_range[1] = torch.inf if high is None else high

    def scale_names(self) -> list[str]:
        """A name for each entry of the flattened scale, such as 'layer0_camera'."""
        if self.scale_granularity == 'shared':
            return ['shared']
        if self.scale_granularity == 'modality':
            return list(MODALITIES)
        layers = [f'layer{layer}' for layer in range(len(self.bias_scale))]
        if self.scale_granularity == 'layer':
            return layers
        return [f'{layer}_{modality}' for layer in layers for modality in MODALITIES]

    def scale_in_effect(self) -> Tensor:
        """The scale after its range is applied, in the shape of ``bias_scale``."""
        low, high = self.scale_range
        return clamp_with_inward_gradient(self.bias_scale, low, high)

    def forward(
        self,
        lidar_weights: Tensor,
        camera_weights: Tensor,
        reference_points: Tensor,
        lidar2img: Tensor | None,
        pad_shape: tuple[int, int] | None,
        bev_shape: tuple[int, int] | None,
        camera_shape: tuple[int, int, int] | None,
        pc_range: Sequence[float],
    ) -> AttentionBias:
        """Make the bias of a batch; see :func:`find_windows` for the geometry's arguments.

        Args:
            lidar_weights: ``(B, Q)`` trust in the LiDAR, in [-1, 1].
            camera_weights: ``(B, Q)`` trust in the cameras, in [-1, 1].
            reference_points: ``(B, Q, 3)`` normalized over ``pc_range``.
            lidar2img: ``(B, V, 4, 4)``.
            pad_shape: ``(H, W)`` in pixels.
            bev_shape: ``(Hb, Wb)``.
            camera_shape: ``(V, h, w)``.
            pc_range: Range in metres.

        Returns:
            The bias; with values for each layer where the scale has them.

        Raises:
            ValueError: If weights have another shape, or lie outside [-1, 1].
        """
        windows = self.find_windows(
            reference_points, lidar2img, pad_shape, bev_shape, camera_shape, pc_range
        )
        return self.bias_from_windows(windows, lidar_weights, camera_weights)

    def find_windows(
        self,
        reference_points: Tensor,
        lidar2img: Tensor | None,
        pad_shape: tuple[int, int] | None,
        bev_shape: tuple[int, int] | None,
        camera_shape: tuple[int, int, int] | None,
        pc_range: Sequence[float],
    ) -> Windows:
        """The windows of a batch's queries; arguments as for :meth:`forward`."""
        with float32_island(reference_points):
            return find_windows(
                reference_points,
                lidar2img,
                pad_shape,
                bev_shape,
                camera_shape,
                pc_range,
                self.lidar_window,
                self.camera_window,
            )

    def bias_from_windows(
        self, windows: Windows, lidar_weights: Tensor, camera_weights: Tensor
    ) -> AttentionBias:
        """Make the bias from windows that are known already.

        Args:
            windows: Result of :meth:`find_windows`.
            lidar_weights: ``(B, Q)`` in [-1, 1].
            camera_weights: ``(B, Q)`` in [-1, 1].

        Returns:
            The bias.

        Raises:
            ValueError: If weights have another shape, or lie outside [-1, 1].
        """
        _check_weights(windows.index.shape[:2], lidar_weights, camera_weights)
        self._project_into_range()
        with float32_island(lidar_weights):
            scale = self.scale_of_modalities()  # (2,) or (L, 2)
            strength = dict(zip(MODALITIES, scale.unbind(-1), strict=True))
            weights = dict(lidar=lidar_weights, camera=camera_weights)
            # (B, Q) or (L, B, Q)
            logits = {name: strength[name][..., None, None] * weights[name] for name in MODALITIES}
            slots = (
                windows.num_lidar_slots,
                windows.index.shape[-1] - windows.num_lidar_slots,
            )
            values = torch.cat(
                [
                    logits[name].unsqueeze(-1).expand(*logits[name].shape, count)
                    for name, count in zip(MODALITIES, slots, strict=True)
                ],
                dim=-1,
            )
            values = values * windows.gain
        return AttentionBias(
            windows.index,
            values,
            tuple(SegmentBias(*windows.whole[name], logits[name]) for name in windows.whole),
            plan=windows.plan,
        )

    def scale_of_modalities(self) -> Tensor:
        """The scale in effect on LiDAR and cameras, ``(2,)``; ``(L, 2)`` where layers differ."""
        scale = self.scale_in_effect()
        if 'modality' not in self.scale_granularity:
            scale = scale.unsqueeze(-1).expand(*scale.shape, len(MODALITIES))
        return scale

    @torch.no_grad()
    def _project_into_range(self) -> None:
        """Take back what an optimizer's momentum has carried past a bound."""
        if self.training and self.learnable_scale:
            self.bias_scale.clamp_(*self.scale_range)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take a scale of this or of a coarser granularity; see :meth:`_refined`."""
        scale = state_dict.get(prefix + 'bias_scale')
        if scale is not None:
            # A bare scale, with neither range nor axes, is enough; a configured range holds.
            if self.range_is_configured or prefix + 'scale_range' not in state_dict:
                state_dict[prefix + 'scale_range'] = self.scale_range
            axes = state_dict.get(prefix + 'scale_axes')
            state_dict[prefix + 'bias_scale'] = self._refined(scale, axes, prefix)
            state_dict[prefix + 'scale_axes'] = self.scale_axes
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _refined(self, scale: Tensor, axes: Tensor | None, prefix: str) -> Tensor:
        """A loaded scale in this generator's shape: each entry starts from its coarser one.

        Raises:
            ValueError: If the loaded scale is finer, or of another decoder depth.
        """
        own_layer, own_modality = self.scale_axes.tolist()
        if axes is None:
            layer, modality = (False, False) if scale.dim() == 0 else (own_layer, own_modality)
        else:
            layer, modality = axes.tolist()
        loaded = _granularity(layer, modality)
        if (layer and not own_layer) or (modality and not own_modality):
            needed = _granularity(layer or own_layer, modality or own_modality)
            raise ValueError(
                f"{prefix}bias_scale: the checkpoint's scale_granularity '{loaded}' cannot be "
                f"loaded into '{self.scale_granularity}', which has fewer scales. Set "
                f"attention_bias_config.scale_granularity='{needed}' in the config."
            )
        if own_layer and not layer:
            scale = scale.unsqueeze(0)
        if own_modality and not modality:
            scale = scale.unsqueeze(-1)
        try:
            return scale.expand(self.bias_scale.shape).clone()
        except RuntimeError:
            raise ValueError(
                f'{prefix}bias_scale: the checkpoint has a scale of shape {tuple(scale.shape)}, '
                f'this model needs {tuple(self.bias_scale.shape)}; make num_layers that of the '
                "checkpoint's decoder."
            ) from None

    def extra_repr(self) -> str:
        """Settings, for ``print(model)``."""
        low, high = self.scale_range.tolist()
        return (
            f'scale_granularity={self.scale_granularity!r}, learnable_scale='
            f'{self.learnable_scale}, range=[{low:g}, {high:g}], lidar_window='
            f'{self.lidar_window.size}, camera_window={self.camera_window.size}'
        )


_KEY = 'attention_bias_config'


def _granularity(layer: bool, modality: bool) -> str:
    return SCALE_GRANULARITIES[2 * layer + modality]


def _scale_shape(granularity: str, num_layers: int | None) -> tuple[int, ...]:
    if granularity not in SCALE_GRANULARITIES:
        raise ValueError(
            f'{_KEY}: scale_granularity={granularity!r} is unknown; choose one of '
            f'{", ".join(SCALE_GRANULARITIES)}.'
        )
    shape: tuple[int, ...] = ()
    if 'layer' in granularity:
        if num_layers is None or num_layers < 1:
            raise ValueError(
                f'{_KEY}: scale_granularity={granularity!r} needs num_layers, the number of '
                f'decoder layers; got num_layers={num_layers}.'
            )
        shape = (num_layers,)
    return (*shape, len(MODALITIES)) if 'modality' in granularity else shape


def _window_shapes(
    sizes: tuple[int | None, int | None],
    window_shape: str,
    sigma: float | tuple[float, float] | None,
) -> list[WindowShape]:
    """Checked windows of LiDAR and cameras."""
    if window_shape not in ('uniform', 'gaussian'):
        raise ValueError(
            f"{_KEY}: window_shape={window_shape!r} is unknown; choose 'uniform' or 'gaussian'."
        )
    if sigma is not None and window_shape == 'uniform':
        raise ValueError(
            f"{_KEY}: sigma={sigma} has no effect with window_shape='uniform'; remove it or set "
            "window_shape='gaussian'."
        )
    sigmas = tuple(sigma) if isinstance(sigma, (tuple, list)) else (sigma, sigma)
    if len(sigmas) != 2 or any(value is not None and value <= 0 for value in sigmas):
        raise ValueError(
            f'{_KEY}: sigma={sigma} must be positive, in cells: one number or (LiDAR, camera).'
        )
    windows = []
    for modality, size, width in zip(MODALITIES, sizes, sigmas, strict=True):
        if size is None:
            windows.append(WindowShape(None))
            continue
        if not isinstance(size, int) or size <= 0 or size % 2 == 0:
            raise ValueError(
                f'{_KEY}: {modality}_window={size} must be an odd positive number of cells, so '
                'that a window has a middle cell; or None for the whole modality.'
            )
        gaussian = window_shape == 'gaussian'
        windows.append(WindowShape(size, (width or size / 4) if gaussian else None))
    return windows


def _check_weights(shape: torch.Size, lidar_weights: Tensor, camera_weights: Tensor) -> None:
    for modality, weights in zip(MODALITIES, (lidar_weights, camera_weights), strict=True):
        if weights.shape != shape:
            raise ValueError(
                f'weight_generator: {modality}_weights have the shape {tuple(weights.shape)}, '
                f'(batch, queries) = {tuple(shape)} is needed.'
            )
        largest = weights.detach().abs().max() if weights.numel() else weights.new_zeros(())
        if not largest <= 1 + WEIGHT_TOLERANCE:
            raise ValueError(
                f'weight_generator: {modality}_weights reach {float(largest):g} in size, they '
                'must lie in [-1, 1]; end the weight generator with tanh.'
            )

"""The bias scale: how strongly trust moves attention, in logits; fixed or learned."""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from ..ops import MODALITIES

ScaleGranularity = Literal['shared', 'modality', 'layer', 'layer_modality']
SCALE_GRANULARITIES: tuple[str, ...] = get_args(ScaleGranularity)

CONFIG_KEY = 'attention_bias_config'

# What stands for no bound in the range's buffer: finite, so that averages of buffers are ranges as
# well (a larger bound than the second is none). Earlier versions have written infinities.
_NO_BOUND, _LARGEST_BOUND = 1e30, 1e20


class BiasScale(nn.Module):
    """A scale for all logits, or for each modality, decoder layer, or both.

    It is the parameter (or, not learned, the buffer) ``bias_scale``; the range in which it takes
    effect is the buffer ``scale_range``.

    Args:
        bias_scale: Start value.
        learnable_scale: Learn the scale with the detector.
        scale_granularity: 'shared' (one scale, shape ``()``), 'modality' (``(2,)``, LiDAR and
            camera), 'layer' (``(L,)``) or 'layer_modality' (``(L, 2)``).
        num_layers: Decoder layers L; needed where layers differ.
        min_scale: Lower bound of the scale in effect; None for none.
        max_scale: Upper bound of the scale in effect; None for none.

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
    ) -> None:
        super().__init__()
        of_layer, of_modality = 'layer' in scale_granularity, 'modality' in scale_granularity
        if scale_granularity not in SCALE_GRANULARITIES:
            raise ValueError(
                f'{CONFIG_KEY}: scale_granularity={scale_granularity!r} is unknown; choose one of '
                f'{", ".join(SCALE_GRANULARITIES)}.'
            )
        if of_layer and (num_layers is None or num_layers < 1):
            raise ValueError(
                f'{CONFIG_KEY}: scale_granularity={scale_granularity!r} needs num_layers, the '
                f'number of decoder layers; got num_layers={num_layers}.'
            )
        self.learnable_scale = learnable_scale
        self.scale_granularity = scale_granularity
        self.range_is_configured = min_scale is not None or max_scale is not None
        given = dict(bias_scale=bias_scale, min_scale=min_scale, max_scale=max_scale)
        for key, value in given.items():
            if value is not None and not abs(value) < _LARGEST_BOUND:
                raise ValueError(
                    f'{CONFIG_KEY}: {key}={value} must be a finite number'
                    + ('.' if key == 'bias_scale' else '; leave it out for an open range.')
                )
        shape = (num_layers or 1,) * of_layer + (len(MODALITIES),) * of_modality
        scale = torch.full(shape, float(bias_scale))
        if learnable_scale:
            self.bias_scale = nn.Parameter(scale)
        else:
            self.register_buffer('bias_scale', scale)
        self.register_buffer('scale_range', torch.tensor((-_NO_BOUND, _NO_BOUND)))
        # Tells (L,) from (2,) in a checkpoint where a decoder has two layers.
        self.register_buffer('scale_axes', torch.tensor((of_layer, of_modality)).long())
        self.set_scale_range(min_scale, max_scale)
        low, high = self.bounds()
        if not low <= bias_scale <= high:
            raise ValueError(
                f'{CONFIG_KEY}: bias_scale={bias_scale} is outside [min_scale={min_scale}, '
                f'max_scale={max_scale}]; start inside the range or widen it.'
            )

    def set_scale_range(self, low: float | None, high: float | None) -> None:
        """Change the range that holds for the scale in effect; None for no bound.

        Raises:
            ValueError: If ``low`` is not less than ``high``.
        """
        # what float32 cannot hold is no bound either
        bounds = (
            -_NO_BOUND if low is None else max(low, -_NO_BOUND),
            _NO_BOUND if high is None else min(high, _NO_BOUND),
        )
        if not bounds[0] < bounds[1]:
            raise ValueError(
                f'{CONFIG_KEY}: min_scale={low} must be less than max_scale={high}; swap them, or '
                'set learnable_scale=False to hold the scale fixed.'
            )
        self.scale_range[0], self.scale_range[1] = bounds

    def bounds(self) -> tuple[float, float]:
        """The range, -inf or inf where it is open."""
        low, high = (
            bound if abs(bound) < _LARGEST_BOUND else math.copysign(math.inf, bound)
            for bound in self.scale_range.tolist()
        )
        return low, high

    def scale_names(self) -> list[str]:
        """A name for each entry of the flattened scale, such as 'layer0_camera'."""
        if self.scale_granularity == 'shared':
            return ['shared']
        if self.scale_granularity == 'modality':
            return list(MODALITIES)
        sensors = [f'_{m}' for m in MODALITIES] if 'modality' in self.scale_granularity else ['']
        return [f'layer{n}{sensor}' for n in range(len(self.bias_scale)) for sensor in sensors]

    def scale_in_effect(self) -> Tensor:
        """The scale after its range is applied, in the shape of ``bias_scale``."""
        low, high = self.scale_range
        return clamp_with_inward_gradient(self.bias_scale, low, high)

    def scale_of_modalities(self) -> Tensor:
        """The scale in effect on LiDAR and cameras, ``(2,)``; ``(L, 2)`` where layers differ."""
        scale = self.scale_in_effect()
        if 'modality' not in self.scale_granularity:
            scale = scale.unsqueeze(-1).expand(*scale.shape, len(MODALITIES))
        return scale

    @torch.no_grad()
    def project_into_range(self) -> None:
        """In training, take back what an optimizer's momentum has carried past a bound."""
        if self.training and self.learnable_scale:
            self.bias_scale.clamp_(*self.scale_range)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        """Take a scale of this or of a coarser granularity, whose entries then start alike."""
        scale = state_dict.get(prefix + 'bias_scale')
        if scale is not None:
            # A bare scale, with neither range nor axes, is enough; a configured range holds.
            found = state_dict.get(prefix + 'scale_range')
            if self.range_is_configured or found is None:
                found = self.scale_range
            state_dict[prefix + 'scale_range'] = found.clamp(-_NO_BOUND, _NO_BOUND)
            axes = state_dict.get(prefix + 'scale_axes')
            if axes is None:
                axes = self.scale_axes if scale.dim() else torch.zeros(2, dtype=torch.int64)
            state_dict[prefix + 'bias_scale'] = self._refined(scale, axes.tolist(), prefix)
            state_dict[prefix + 'scale_axes'] = self.scale_axes
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def _refined(self, scale: Tensor, axes: list[int], prefix: str) -> Tensor:
        """A loaded scale in this module's shape.

        Raises:
            ValueError: If it is finer, or of another decoder depth.
        """
        (layer, modality), (own_layer, own_modality) = axes, self.scale_axes.tolist()
        if layer > own_layer or modality > own_modality:
            loaded = SCALE_GRANULARITIES[2 * layer + modality]
            needed = SCALE_GRANULARITIES[2 * max(layer, own_layer) + max(modality, own_modality)]
            raise ValueError(
                f"{prefix}bias_scale: the checkpoint's scale_granularity '{loaded}' cannot be "
                f"loaded into '{self.scale_granularity}', which has fewer scales. Set "
                f"{CONFIG_KEY}.scale_granularity='{needed}' in the config."
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


class _ClampWithInwardGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, low: Tensor, high: Tensor) -> Tensor:
        # not the value: the next forward pass may project it in place before this one's backward
        ctx.save_for_backward(value >= high, value <= low)
        return torch.minimum(torch.maximum(value, low), high)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        at_high, at_low = ctx.saved_tensors
        (gradient,) = gradients
        # Descent goes against the gradient: at the upper bound only a positive one leads inwards.
        outward = (at_high & (gradient < 0)) | (at_low & (gradient > 0))
        return gradient.masked_fill(outward, 0), None, None


def clamp_with_inward_gradient(value: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Clamp a tensor of any shape, with a gradient that can lead back from a bound.

    A plain clamp has no gradient outside its range, so that a parameter pushed past a bound stays
    there for good. With that of the identity an optimizer's momentum grows against the bound. Here
    the gradient passes where descent would lead inwards.
    """
    return _ClampWithInwardGradient.apply(value, low, high)

"""What can go wrong with a learnable bias scale, said once, with the remedy."""

import math
from collections.abc import Sequence

from .history import BiasScaleRecord
from .probes import MODALITIES
from .travel import ScaleOptimizer

SENSIBLE_START = (0.5, 5.0)
"""A start of 0.1 is too weak to learn from, 10 saturates the softmax."""
LEAST_TRAVEL = 0.25
"""A run whose learning rates sum up to less cannot learn a scale."""
CLOSE = 0.05
"""A scale is at a bound if it is no further from it than this share of the bound."""
AWAY = 0.10
"""It has left the bound once it is further than this, so that noise is no news."""
PATIENCE = 3
"""Logged iterations in a row with exact zeros that are one too many."""
_EVERY_SCALE = "paramwise_cfg.custom_keys['attention_bias_generator.bias_scale']"


def bound_nearby(
    scale: float, scale_range: tuple[float, float], closeness: float = CLOSE
) -> tuple[str, float] | None:
    """The bound at which a scale is.

    Args:
        scale: The scale.
        scale_range: Lowest and highest value it may take.
        closeness: Largest distance, as a share of the bound (of 1, if the bound is 0).

    Returns:
        Name of the bound in the config, and its value; None if there is no bound nearby.
    """
    near = [
        (abs(scale - bound), key, bound)
        for key, bound in zip(('min_scale', 'max_scale'), scale_range, strict=True)
        if math.isfinite(bound) and abs(scale - bound) <= closeness * (abs(bound) or 1.0)
    ]
    return min(near)[1:] if near else None


def start_warnings(
    scale_names: Sequence[str], scales: Sequence[float], config_key: str
) -> list[str]:
    """Warn of start values from which little can be learned.

    Args:
        scale_names: Name of each entry of the scale.
        scales: Values at the start.
        config_key: Full name of ``bias_scale`` in the config.

    Returns:
        The warnings; empty where all is well.
    """
    low, high = SENSIBLE_START
    warnings = []
    for name, scale in zip(scale_names, scales, strict=True):
        if low <= scale <= high:
            continue
        reason = (
            'is too weak for the detector to learn from the bias'
            if scale < low
            else 'saturates the softmax of the attention'
        )
        warnings.append(
            f'Bias scale {name} starts at {scale:g}, which {reason}. Start in '
            f'[{low:g}, {high:g}], usually at {config_key}=2.5.'
        )
    return warnings


def optimizer_warnings(
    scale_name: str, requires_grad: bool, scale_optimizer: ScaleOptimizer | None
) -> list[str]:
    """Warn of an optimizer that does not move the scale, or decays it.

    Args:
        scale_name: Name of the parameter.
        requires_grad: Whether the parameter is not frozen.
        scale_optimizer: The optimizer that has it, if any.

    Returns:
        The warnings; empty where all is well.
    """
    if not requires_grad:
        return [
            f'{scale_name} is learnable, but frozen (requires_grad=False), and will stay as it '
            'is. Take its head out of frozen_modules, or say what is meant with '
            'attention_bias_config.learnable_scale=False.'
        ]
    if scale_optimizer is None:
        return [
            f'{scale_name} is learnable, but no optimizer has it, and it will stay as it is. '
            'It was made after the optimizer, or left out by a constructor of your own: let '
            'optim_wrapper build its parameters from the whole model.'
        ]
    decay = scale_optimizer.group.get('weight_decay', 0.0)
    if decay:
        return [
            f'Weight decay of {decay:g} pulls {scale_name} towards 0. Set {_EVERY_SCALE}='
            'dict(lr_mult=0.1, decay_mult=0.0).'
        ]
    return []


def travel_warnings(scale_name: str, travel: float) -> list[str]:
    """Warn of a schedule that cannot move the scale.

    Args:
        scale_name: Name of the parameter.
        travel: The longest way that the optimizer can move it in the whole run.

    Returns:
        The warning; empty where all is well.
    """
    if travel >= LEAST_TRAVEL:
        return []
    factor = f' about {LEAST_TRAVEL / travel:.0f} times or more' if travel > 0 else ''
    return [
        f'The schedule cannot move {scale_name}: its learning rate sums up to {travel:.2g} over '
        f'the run, less than {LEAST_TRAVEL}. Raise lr_mult{factor} in {_EVERY_SCALE}, train '
        'longer, or set attention_bias_config.learnable_scale=False.'
    ]


class BiasScaleWatch:
    """Looks at each row of the history for what is wrong with a learnable scale.

    A warning is given when a state begins, and again only after it has ended in between.

    Args:
        scale_name: Name of the parameter.
        scale_names: Name of each entry of the scale.
        config_key: Full name of ``bias_scale`` in the config.
    """

    def __init__(self, scale_name: str, scale_names: Sequence[str], config_key: str) -> None:
        self._scale_name = scale_name
        self._scale_names = tuple(scale_names)
        self._config = config_key.removesuffix('bias_scale')
        self._said: set[str] = set()
        self._zeros: dict[str, int] = {}

    def check(self, record: BiasScaleRecord, gradient_is_missing: bool = False) -> list[str]:
        """Look at a row.

        Args:
            record: The row.
            gradient_is_missing: Whether the optimizer made a step without any gradient of the
                scale.

        Returns:
            The warnings; empty where all is well or has been said.
        """
        warnings = [
            self._missing_gradient(gradient_is_missing),
            *self._not_finite(record),
            self._zero_weights(record),
            *(self._zero_gradient(record, index) for index in range(len(self._scale_names))),
            *(self._at_bound(record, index) for index in range(len(self._scale_names))),
        ]
        return [warning for warning in warnings if warning]

    def _news(self, state: str, holds: bool, warning: str) -> str:
        """The warning if the state begins, otherwise nothing."""
        if not holds:
            self._said.discard(state)
            return ''
        if state in self._said:
            return ''
        self._said.add(state)
        return warning

    def _lasts(self, state: str, holds: bool) -> bool:
        """Whether a state has held in this row and the rows before it for too long."""
        self._zeros[state] = self._zeros.get(state, 0) + 1 if holds else 0
        return self._zeros[state] >= PATIENCE

    def _missing_gradient(self, holds: bool) -> str:
        return self._news(
            'missing gradient',
            holds,
            f'{self._scale_name} is learnable, but got no gradient: the bias does not reach the '
            "loss. Use transformer=dict(type='AttentionBiasCmtTransformer', ...), whose "
            f'cross-attention takes the bias, or set {self._config}learnable_scale=False.',
        )

    def _not_finite(self, record: BiasScaleRecord) -> list[str]:
        weights = record.weights
        seen = {
            'value': record.scales,
            'gradient': record.gradients or (),
            'weights': () if weights is None else (weights.lidar_mean, weights.camera_mean),
        }
        remedies = {
            'value': 'Go back to a checkpoint from before, and lower its lr_mult or the rate.',
            'gradient': "Set optim_wrapper.clip_grad, or optim_wrapper.dtype='bfloat16'.",
            'weights': 'The weight_generator returns them: lower its learning rate, and look for '
            'the first non-finite loss in the log.',
        }
        return [
            self._news(
                f'non-finite {what}',
                not all(map(math.isfinite, values)),
                f'Iteration {record.iteration}: {what} of {self._scale_name} not finite: '
                f'{", ".join(f"{value:g}" for value in values)}. {remedies[what]}',
            )
            for what, values in seen.items()
        ]

    def _zero_weights(self, record: BiasScaleRecord) -> str:
        """All weights start at exactly 0, and leave it with the first step of the optimizer."""
        weights = record.weights
        if weights is None:
            return ''
        holds = all(weights.all_zero(modality) for modality in MODALITIES)
        return self._news(
            'zero weights',
            self._lasts('zero weights', holds),
            f'All weights are still exactly 0 after {record.iteration} iterations, so '
            f'{self._scale_name} cannot be learned: the weight_generator is not trained. Take its '
            'head out of frozen_modules, and look for lr_mult=0 in paramwise_cfg.custom_keys.',
        )

    def _zero_gradient(self, record: BiasScaleRecord, index: int) -> str:
        """A gradient of exactly 0, though there are weights and no bound is in the way."""
        if record.gradients is None or record.weights is None:
            return ''
        name, weights = self._scale_names[index], record.weights
        own = [modality for modality in MODALITIES if name.endswith(modality)] or MODALITIES
        holds = (
            record.gradients[index] == 0
            and not all(weights.all_zero(modality) for modality in own)
            and bound_nearby(record.scales[index], record.scale_range) is None
        )
        state = f'zero gradient {name}'
        return self._news(
            state,
            self._lasts(state, holds),
            f'The gradient of {self._scale_name} ({name}) has been exactly 0 in {PATIENCE} logged '
            'iterations, though there are weights: the cross-attention drops the bias, or the '
            "sensor gives no tokens. Use transformer=dict(type='AttentionBiasCmtTransformer', "
            '...) and an attention class that takes a bias.',
        )

    def _at_bound(self, record: BiasScaleRecord, index: int) -> str:
        name, scale = self._scale_names[index], record.scales[index]
        for key in ('min_scale', 'max_scale'):
            far = bound_nearby(scale, record.scale_range, AWAY)
            if far is None or far[0] != key:
                self._said.discard(f'{key} {name}')
        near = bound_nearby(scale, record.scale_range)
        if near is None:
            return ''
        key, bound = near
        return self._news(
            f'{key} {name}',
            True,
            f'Iteration {record.iteration}: bias scale {name} is {scale:.3g}, within '
            f'{CLOSE:.0%} of {key}={bound:g}, and cannot go on. If it stays there, widen '
            f'{self._config}{key} or the schedule of BiasScaleRangeHook.',
        )

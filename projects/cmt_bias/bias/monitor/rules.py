"""What the monitor says of a learnable bias scale: one list of rules, each with its remedy.

``docs/reading_the_curve.md`` explains them by their names.
"""

import math
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import pandas as pd

from ...ops import MODALITIES
from ..head_lookup import BiasedHead
from .history import Record
from .scale_optimizer import ScaleOptimizer

WEAK_START, SATURATING_START = 0.5, 5.0
LEAST_TRAVEL = 0.25  # a run whose learning rates sum up to less cannot learn a scale
# Share of a bound within which a scale is at it; beyond which it has left: noise is no news.
CLOSE, AWAY = 0.05, 0.10
PATIENCE = 3  # logged iterations in a row with exact zeros that are one too many
WEAK, STRONG = 1.5, 3.5  # final values between them are about as strong as the usual 2.5
# The part of the run, at its end, in which the scale should have settled; and rows to tell it.
LAST_PART, FEWEST_ROWS = 0.2, 4
DRIFTING = 0.25  # share of the longest possible way there, above which the scale still drifts


def bound_nearby(scale: float, low: float, high: float, closeness: float = CLOSE) -> str:
    """Name of the bound that is no further from the scale than a share of it; '' for none."""
    key, bound = min(
        ('min_scale', low), ('max_scale', high), key=lambda side: abs(scale - side[1])
    )
    is_near = math.isfinite(bound) and abs(scale - bound) <= closeness * (abs(bound) or 1.0)
    return key if is_near else ''


class Rule(NamedTuple):
    """One thing to say about what it looks at, ``s``."""

    name: str  # in the documentation
    when: Callable[[Any], bool]
    says: str  # what is the case, a format of s
    do: str  # what to do about it, a format of s
    each: bool = False  # it is about each entry of the scale, not about the scale as a whole
    rows: int = 1  # logged iterations in a row for which it has to hold
    # when it is over, so that it can be said again; by default when it does not hold
    ends: Callable[[Any], bool] | None = None


_ENTRY = '{s.parameter} ({s.name})'
_GROUP = "paramwise_cfg.custom_keys['attention_bias_generator.bias_scale']"
_TRANSFORMER = "transformer=dict(type='AttentionBiasCmtTransformer', ...)"
_START = f'Start in [{WEAK_START}, {SATURATING_START:g}], usual is {{s.config}}.bias_scale=2.5.'

RULES: tuple[Rule, ...] = (
    Rule(
        'weak start',
        lambda s: s.iteration == 0 and s.scale < WEAK_START,
        'Bias scale {s.name} starts at {s.scale:g}, which is too weak to learn from the bias.',
        _START,
        each=True,
    ),
    Rule(
        'saturating start',
        lambda s: s.iteration == 0 and s.scale > SATURATING_START,
        'Bias scale {s.name} starts at {s.scale:g}, which saturates the softmax of the attention.',
        _START,
        each=True,
    ),
    Rule(
        'frozen',
        lambda s: s.is_frozen,
        '{s.parameter} is learnable, but frozen (requires_grad=False), and will stay as it is.',
        'Take its head out of frozen_modules, or say {s.config}.learnable_scale=False.',
    ),
    Rule(
        'no optimizer',
        lambda s: not (s.is_frozen or s.has_optimizer),
        '{s.parameter} is learnable, but no optimizer has it, and it will stay as it is.',
        'Let optim_wrapper build its parameters from the whole model.',
    ),
    Rule(
        'weight decay',
        lambda s: s.decay > 0,
        'Weight decay of {s.decay:g} pulls {s.parameter} towards 0.',
        f'Set {_GROUP}=dict(lr_mult=0.1, decay_mult=0.0).',
    ),
    Rule(
        'short schedule',
        lambda s: s.travel < LEAST_TRAVEL,
        'The schedule cannot move {s.parameter}: its learning rate sums up to {s.travel:.2g} over '
        f'the run, less than {LEAST_TRAVEL}.',
        f'Raise lr_mult {{s.missing_rate:.0f}} times or more in {_GROUP}, train longer, or set '
        '{s.config}.learnable_scale=False.',
    ),
    Rule(
        'no gradient',
        lambda s: s.lacks_gradient,
        '{s.parameter} is learnable, but got no gradient: the bias does not reach the loss.',
        f'Use {_TRANSFORMER}, whose cross-attention takes the bias, or set '
        '{s.config}.learnable_scale=False.',
    ),
    Rule(
        'not finite',
        lambda s: s.not_finite,
        f'Iteration {{s.iteration}}: {{s.not_finite}} of {_ENTRY} not finite.',
        'Go back to a checkpoint from before. Of a gradient: set optim_wrapper.clip_grad, or '
        "optim_wrapper.dtype='bfloat16'; of weights: lower the rate of the weight_generator.",
        each=True,
    ),
    Rule(  # all start at exactly 0, and leave it with the first step: it is there with a gradient
        'weights zero',
        lambda s: s.gradient is not None and bool(s.weights) and not any(s.weights),
        'All weights are still exactly 0 after {s.iteration} iterations, so {s.parameter} cannot '
        'be learned: the weight_generator is not trained.',
        'Take its head out of frozen_modules; look for lr_mult=0 in paramwise_cfg.custom_keys.',
        rows=PATIENCE,
    ),
    Rule(
        'gradient zero',
        lambda s: s.gradient == 0 and s.has_own_weights and not s.bound,
        f'The gradient of {_ENTRY} has been exactly 0 in {PATIENCE} logged iterations, though '
        'there are weights: the cross-attention drops the bias, or the sensor gives no tokens.',
        f'Use {_TRANSFORMER} and an attention class that takes a bias.',
        each=True,
        rows=PATIENCE,
    ),
    Rule(
        'at a bound',
        lambda s: s.bound,
        'Iteration {s.iteration}: bias scale {s.name} is {s.scale:.3g}, within '
        f'{CLOSE:.0%} of {{s.bound}}={{s.limit:g}}, and cannot go on.',
        'If it stays there, widen {s.config}.{s.bound} or the schedule of BiasScaleRangeHook.',
        each=True,
        ends=lambda s: not s.is_near_bound,
    ),
)


ENDINGS = {
    'of no use': 'not finite: the model is of no use',
    'strong': f'above {STRONG}, stronger modulation was wanted',
    'weak': f'below {WEAK}, the weights are of little use',
    'usual': f'between {WEAK} and {STRONG}, the usual strength',
    'held': 'held by {bound}, so a wider range may lead it further',
    'few rows': 'too few rows to say whether it has settled, a smaller interval gives more',
    'drifting': 'still drifting {way}, train longer',
    'settled': 'settled {way}',
    'unmoved': 'it did not move',
}
"""What is said of the end of a run, by its name in the documentation."""


class BiasScaleWatch:
    """Puts the rules to each record; what holds is said once, when it begins to hold.

    ``travel`` is the longest way that the optimizer, if one has the scale, can move it in
    training; None if that is not known.
    """

    def __init__(
        self, head: BiasedHead, optimizer: ScaleOptimizer | None, travel: float | None
    ) -> None:
        self._names = head.generator.scale_names()
        self._optimizer = optimizer
        self._run = dict(
            parameter=head.scale_name,
            config=head.config,
            is_frozen=not head.generator.bias_scale.requires_grad,
            has_optimizer=optimizer is not None,
            travel=math.inf if travel is None else travel,
            missing_rate=LEAST_TRAVEL / travel if travel else math.inf,
        )
        self._rows: Counter[tuple[str, str]] = Counter()

    def check(self, record: Record) -> list[str]:
        """What is to be said of a record; empty where all is well or has been said."""
        said = []
        for number, name in enumerate(self._names):
            sight = self._sight(record, name)
            for rule in (rule for rule in RULES if rule.each or number == 0):
                state = (rule.name, name)
                if rule.when(sight):
                    self._rows[state] += 1
                    if self._rows[state] == rule.rows:
                        said.append(f'{rule.says} {rule.do}'.format(s=sight))
                elif rule.ends is None or rule.ends(sight):
                    self._rows[state] = 0
        return said

    def _sight(self, record: Record, name: str) -> SimpleNamespace:
        """What a rule looks at: the entry ``name`` of the scale in a logged iteration."""
        optimizer = self._optimizer
        low: Any = record['range_low']
        high: Any = record['range_high']
        scale: Any = record[f'bias_scale/{name}']
        gradient = record.get(f'bias_scale_grad/{name}')
        keys = [f'{modality}_{kind}' for modality in MODALITIES for kind in ('mean', 'std')]
        weights = {key: x for key in keys if (x := record.get(key)) is not None}
        own = {key: x for key, x in weights.items() if key.split('_')[0] in name} or weights
        bound = bound_nearby(scale, low, high)
        found = dict(value=[scale], gradient=[gradient or 0.0], weights=weights.values())
        return SimpleNamespace(
            **self._run,
            iteration=record['iteration'],
            name=name,
            scale=scale,
            gradient=gradient,
            not_finite=', '.join(x for x in found if not all(map(math.isfinite, found[x]))),
            lacks_gradient=bool(optimizer and optimizer.lacks_gradient),
            weights=list(weights.values()),
            has_own_weights=any(own.values()),
            bound=bound,
            limit=low if bound == 'min_scale' else high,
            is_near_bound=bool(bound_nearby(scale, low, high, AWAY)),
            decay=optimizer.group.get('weight_decay', 0.0) if optimizer else 0.0,
        )


def read_ending(
    history: pd.DataFrame, name: str, accumulated: int = 1, is_like_adam: bool = True
) -> str:
    """Say what an entry's last value and its last part mean.

    The net change in the last fifth of the run is compared with the longest way that was possible
    there, the sum of the learning rate over its steps: Adam goes nearly that way while gradients
    agree, and a small part of it once they point to and fro. For other optimizers, whose steps
    follow the gradient's size, it is compared with the span of the whole run.

    ``history`` has a row at least, ``accumulated`` iterations are one step of the optimizer, and
    ``is_like_adam`` says that a step is about as long as the learning rate.
    """
    scales, iterations = history[f'bias_scale/{name}'], history['iteration']
    start, scale = scales.iloc[[0, -1]]
    if not math.isfinite(scale):
        return f'{name} {start:.3g} -> {scale:.3g}: {ENDINGS["of no use"]}'
    said = ['strong' if scale > STRONG else 'weak' if scale < WEAK else 'usual']
    bound = bound_nearby(scale, *history[['range_low', 'range_high']].iloc[-1])
    said += ['held'] if bound else []

    first, end = iterations.iloc[[0, -1]]
    last = history[iterations >= end - LAST_PART * (end - first)]
    drift = scale - scales[last.index[0]]
    if is_like_adam:
        steps = last['iteration'].diff() / accumulated
        possible = (last['learning_rate'].fillna(0.0) * steps).sum()
    else:
        possible = scales.max() - scales.min()
    share = abs(drift) / possible if possible > 0 else math.nan
    way = f'(in the last fifth of the run {drift:+.2g}, {share:.0%} of the {possible:.2g} '
    way += 'its learning rate allowed)' if is_like_adam else 'it spanned in all)'
    if len(last) < FEWEST_ROWS:
        said.append('few rows')
    elif not math.isnan(share):
        said.append('drifting' if share > DRIFTING else 'settled')
    elif drift == 0:
        said.append('unmoved')
    read = '; '.join(ENDINGS[ending] for ending in said).format(bound=bound, way=way)
    return f'{name} {start:.3g} -> {scale:.3g}: {read}'

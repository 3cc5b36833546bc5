"""What the path of a learned bias scale says at the end of a run."""

import math
from collections.abc import Sequence
from itertools import pairwise

from .diagnosis import bound_nearby
from .history import BiasScaleRecord

STRONG = 3.5
"""Above it the detector wanted a stronger modulation than the usual start of 2.5 gives."""
WEAK = 1.5
"""Below it the detector makes little use of the weights."""
LAST_PART = 0.2
"""The part of the run, at its end, in which the scale should have settled."""
DRIFTING = 0.25
"""Share of the longest possible way, in the last part, above which the scale still drifts."""
FEWEST_RECORDS = 4
"""Rows in the last part without which nothing is said about drift."""


def read_bias_scale(
    records: Sequence[BiasScaleRecord],
    scale_names: Sequence[str],
    accumulated: int = 1,
    like_adam: bool = True,
) -> list[str]:
    """Say what each entry's last value and its last part mean.

    Whether a scale has settled cannot be told from how much it moved: at the end of most schedules
    the learning rate is so small that nothing moves. So the net change in the last fifth of the
    run is compared with the longest way that was possible there, the sum of the learning rate over
    its steps. Adam goes nearly that way while gradients agree, and a small part of it once they
    point to and fro. Above a quarter the scale is still drifting. For other optimizers, whose
    steps follow the gradient's size, the change is compared with the span of the whole run.

    Args:
        records: Rows of the history.
        scale_names: Name of each entry of the scale.
        accumulated: Iterations to one step of the optimizer.
        like_adam: Whether a step is about as long as the learning rate.

    Returns:
        One line for each entry; none if there are no rows.
    """
    if not records:
        return []
    return [
        f'{name} {records[0].scales[index]:.3g} -> {records[-1].scales[index]:.3g}: '
        + '; '.join(
            part
            for part in (
                read_value(records[-1].scales[index]),
                read_bound(records[-1].scales[index], records[-1].scale_range),
                read_drift(records, index, accumulated, like_adam),
            )
            if part
        )
        for index, name in enumerate(scale_names)
    ]


def read_value(scale: float) -> str:
    """What the last value says."""
    if not math.isfinite(scale):
        return 'not finite, so the model is of no use'
    if scale > STRONG:
        return f'above {STRONG}, stronger modulation was wanted'
    if scale < WEAK:
        return f'below {WEAK}, the weights are of little use'
    return f'between {WEAK} and {STRONG}, the usual strength'


def read_bound(scale: float, scale_range: tuple[float, float]) -> str:
    """Whether the range may have kept the scale from going on; empty if not."""
    bound = bound_nearby(scale, scale_range)
    if bound is None:
        return ''
    key, value = bound
    return f'held by {key}={value:g}, so a wider range may lead it further'


def read_drift(
    records: Sequence[BiasScaleRecord], index: int, accumulated: int, like_adam: bool
) -> str:
    """Whether an entry has settled; see :func:`read_bias_scale`."""
    begin = records[-1].iteration - LAST_PART * (records[-1].iteration - records[0].iteration)
    last = [record for record in records if record.iteration >= begin]
    if len(last) < FEWEST_RECORDS:
        return f'too few rows ({len(records)}) to say whether it has settled'
    drift = last[-1].scales[index] - last[0].scales[index]
    if like_adam:
        possible = sum(
            (after.learning_rate or 0.0) * (after.iteration - before.iteration) / accumulated
            for before, after in pairwise(last)
        )
        measure = f'of the {possible:.2g} its learning rate allowed'
    else:
        values = [record.scales[index] for record in records]
        possible = max(values) - min(values)
        measure = f'of the {possible:.2g} it spanned in all'
    if not math.isfinite(drift) or not possible > 0:
        return 'it did not move' if drift == 0 else ''
    share = abs(drift) / possible
    state = 'still drifting' if share > DRIFTING else 'settled'
    return f'{state} (in the last fifth of the run {drift:+.2g}, {share:.0%} {measure})'

"""What a study's numbers mean together, in sentences: where a gain is lost, and the scale.

Names of variants have a meaning here: 'no_bias' is the detector without the bias, 'oracle' has
weights that know what has failed, and those that begin with 'learned' differ in where their scale
starts. The reference of a study has a router.
"""

import math
from collections.abc import Mapping

from ..failures import CLEAN
from ..metrics.subset_evaluation import WHOLE
from .seed_statistics import Estimate, estimate
from .study_results import FAILURE, FAILURES, StudyResults

NO_BIAS, ORACLE, LEARNED = 'no_bias', 'oracle', 'learned'
SHARED = 'scale (shared)'
CLAIMED = 'city 2.0 to 2.5, highway 3.0 to 3.5, night 3.5 to 4.0, rain 4.0 to 5.0'
"""What has been claimed of the best scale, in logits."""
TELLS_APART = 0.02
"""Least difference of trust, of 2 possible, that is called one."""


def interval(found: Estimate, digits: int = 4) -> str:
    """A mean and its interval."""
    text = f'{found.mean:+.{digits}f}'
    if math.isnan(found.low):
        return f'{text} (n = {found.count}, no interval)'
    return f'{text} [{found.low:+.{digits}f}, {found.high:+.{digits}f}]'


def link_findings(results: StudyResults) -> list[str]:
    """Which of detector, bias and router a gain under failures is lost at.

    A gain needs a detector that failures cost something, a bias that helps with perfect weights,
    and a router that finds them; the first that is not seen is named.
    """
    clean = results.of(NO_BIAS, CLEAN, 'mAP')
    failures = results.failures()
    cost = estimate(clean - results.of(NO_BIAS, FAILURES, 'mAP'))
    if not cost.count:
        return []
    costs = {name: (clean - results.of(NO_BIAS, name, 'mAP')).mean() for name in failures}
    share = results.of(NO_BIAS, CLEAN, 'camera attention').mean()
    lines = [
        f'**Detector.** Without a bias the failures cost it {interval(cost)} mAP on average '
        f'({_extremes(costs)}); {share:.1%} of its attention is on cameras.'
    ]
    ceiling = results.compare(ORACLE, NO_BIAS, FAILURES)
    router = results.compare(results.reference, NO_BIAS, FAILURES)
    if ceiling.count:
        gains = {name: results.compare(ORACLE, NO_BIAS, name).mean for name in failures}
        lines.append(
            '**Bias.** Weights that know what has failed change the mAP under failures by '
            f'{interval(ceiling)}, the ceiling of what trust can give here ({_extremes(gains)}).'
        )
    if router.count:
        lines.append(_router_finding(results, router))
    if math.isnan(ceiling.low) or math.isnan(router.low):
        return lines
    if cost.mean <= 0:
        verdict = 'the detector: failures cost it nothing'
    elif ceiling.low <= 0:
        verdict = (
            'the bias: even perfect weights do not visibly help this detector; a gain above '
            f'{max(ceiling.high, 0.0):.4f} mAP is excluded'
        )
    elif router.low <= 0:
        verdict = 'the router: perfect weights help, those that it finds do not visibly'
    else:
        verdict = f'none: the router reaches {router.mean / ceiling.mean:.0%} of the ceiling'
    begin = 'As far as one seed tells, what' if min(ceiling.count, router.count) == 1 else 'What'
    return [*lines, f'{begin} stands between the idea and a gain is **{verdict}**.']


def _extremes(values: Mapping[str, float]) -> str:
    """The failures with the lowest and highest of their values."""
    least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    ends = dict.fromkeys([least, most])
    return ' to '.join(f'{name.removeprefix(FAILURE)} {values[name]:+.4f}' for name in ends)


def _router_finding(results: StudyResults, gain: Estimate) -> str:
    there, elsewhere = (
        results.of(results.reference, FAILURES, f'trust fall, {where}').mean()
        for where in ('spoiled part', 'elsewhere')
    )
    told = ': it does not tell them apart' if abs(there - elsewhere) < TELLS_APART else ''
    return (
        f'**Router.** The learned one ({results.reference}) withdraws {there:+.4f} of its trust '
        f'where a sensor is spoiled and {elsewhere:+.4f} elsewhere, of 2 possible{told}. It '
        f'changes the mAP under failures by {interval(gain)}.'
    )


def _starts(results: StudyResults) -> dict[str, tuple[float, float]]:
    """First and last value of the scale of variants that differ in its start; mean over seeds."""
    if SHARED not in results.curves:
        return {}
    curves = results.curves[SHARED].dropna().sort_index()
    found = {}
    for variant in results.variants:
        if variant.startswith(LEARNED) and variant in curves.index:
            ends = curves.loc[variant].groupby('seed').agg(['first', 'last']).mean()
            found[variant] = float(ends['first']), float(ends['last'])
    return found


def scale_findings(results: StudyResults) -> list[str]:
    """Whether starts meet, and whether the scale settles."""
    scales = _starts(results)
    if len(scales) < 2:
        return []
    starts, ends = zip(*scales.values(), strict=True)
    left = (max(ends) - min(ends)) / (max(starts) - min(starts))
    told = ', '.join(f'{start:.2f} to {end:.2f}' for start, end in sorted(scales.values()))
    lines = [
        f'The learned scales go from {told}: {left:.0%} of the distance between the starts is '
        'left at the end. '
        + (
            'They meet: the loss has a preference.'
            if left < 0.25
            else 'They do not meet: within this training the start decides, not the loss.'
        )
    ]
    drift = 'drift in the last fifth (shared)'
    most = max(abs(results.of(variant, WHOLE, drift).mean()) for variant in scales)
    lines.append(
        f'In the last fifth of the training none of them moves by more than {most:.3f}; '
        'the learning rate has gone to 0 there, so that settling is no proof of an optimum.'
    )
    return lines


def condition_finding(results: StudyResults) -> list[str]:
    """Whether conditions want different scales: the highest learned one against the lowest."""
    scales = _starts(results)
    if len(scales) < 2:
        return []
    low, high = (choose(scales, key=lambda name: scales[name][1]) for choose in (min, max))
    parts = [part['name'] for part in results.parts if part['kind'] == 'condition']
    found = {part: results.compare(high, low, part) for part in parts}
    lines = [
        f'Models that end at a scale of {scales[high][1]:.2f} ({high}) against those at '
        f'{scales[low][1]:.2f} ({low}), mAP: '
        + ', '.join(f'{part} {interval(each)}' for part, each in found.items())
        + '.'
    ]
    seen = [part for part, each in found.items() if each.leaves_out_zero]
    if any(not math.isnan(each.low) for each in found.values()):
        said = (
            f'An effect of the scale is seen for {", ".join(seen)}.'
            if seen
            else 'No condition prefers one of them visibly.'
        )
        lines.append(f'The claim is that conditions want different scales ({CLAIMED}). {said}')
    return lines

"""What a study's numbers mean together, in sentences: where a gain is lost, and the scale.

Names of variants have a meaning here: 'no_bias' is the detector without the bias, 'oracle' has
weights that know what has failed, and those that begin with 'learned' differ in where their scale
starts. The reference of a study has a router.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

from ..failures import CLEAN
from ..metrics.subset_evaluation import WHOLE
from .seed_statistics import Estimate, estimate, holm
from .study_results import FAILURE, FAILURES, StudyResults

NO_BIAS, ORACLE, LEARNED = 'no_bias', 'oracle', 'learned'
SHARED = 'scale (shared)'
CLAIMED = 'city 2.0 to 2.5, highway 3.0 to 3.5, night 3.5 to 4.0, rain 4.0 to 5.0'
"""What has been claimed of the best scale, in logits."""
TELLS_APART = 0.02
"""Least difference of trust, of 2 possible, that is called one."""


def link_findings(results: StudyResults) -> list[str]:
    """Which of detector, bias and router a gain under failures is lost at.

    A gain needs a detector that failures cost something, a bias that helps with perfect weights,
    and a router that finds them; the first that is not shown is named, by p-values that are
    adjusted as those of the answers are.
    """
    clean = results.of(NO_BIAS, CLEAN, 'mAP')
    failures = results.failures()
    cost = estimate(clean - results.of(NO_BIAS, FAILURES, 'mAP'))
    if not cost.count:
        return []
    costs = {name: (clean - results.of(NO_BIAS, name, 'mAP')).mean() for name in failures}
    seen = results.of(NO_BIAS, CLEAN, 'camera attention').mean()
    looks = '' if math.isnan(seen) else f'; {seen:.1%} of its attention is on cameras'
    lines = [
        f'**Detector.** Without a bias the failures cost it {cost.text()} mAP on average '
        f'({_extremes(costs)}){looks}.'
    ]
    (perfect,) = results.judge((ORACLE, NO_BIAS, FAILURES, 'mAP'))
    (router,) = results.judge((results.reference, NO_BIAS, FAILURES, 'mAP'))
    if perfect.count:
        gains = {name: results.compare(ORACLE, NO_BIAS, name).mean for name in failures}
        lines.append(
            '**Bias.** Weights that know what has failed, 1 and -1 in these windows, change the '
            f'mAP under failures by {perfect.text()} ({_extremes(gains)}).'
        )
    if router.count:
        lines.append(_router_finding(results, router))
    if math.isnan(perfect.p_value) or math.isnan(router.p_value):
        return lines
    if cost.mean <= 0 or cost.low <= 0:
        verdict = 'the detector: it is not shown that failures cost it anything'
    elif not (perfect.is_significant and perfect.mean > 0):
        verdict = 'the bias: it is not shown that even perfect weights help this detector; more '
        verdict += f'than {max(perfect.high, 0.0):.4f} mAP from them is excluded'
    elif not (router.is_significant and router.mean > 0):
        verdict = 'the router: perfect weights help; that those it finds do is not shown'
    else:
        there, elsewhere = _trust_falls(results)
        verdict = 'nothing: the router'
        if there - elsewhere < TELLS_APART:
            verdict = 'the router: not by telling what is spoiled, it'
        verdict += f' gains {router.mean / perfect.mean:.0%} of what perfect weights do'
    return [*lines, f'What stands between the idea and a gain is **{verdict}**.']


def _extremes(values: Mapping[str, float]) -> str:
    """The failures with the lowest and highest of their values."""
    least, most = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    ends = dict.fromkeys([least, most])
    return ' to '.join(f'{name.removeprefix(FAILURE)} {values[name]:+.4f}' for name in ends)


def _trust_falls(results: StudyResults) -> tuple[float, float]:
    """The reference's loss of trust under failures: where a sensor is spoiled, and elsewhere."""
    there, elsewhere = (
        results.of(results.reference, FAILURES, f'trust fall, {where}').mean()
        for where in ('spoiled part', 'elsewhere')
    )
    return there, elsewhere


def _router_finding(results: StudyResults, gain: Estimate) -> str:
    changes = f'changes the mAP under failures by {gain.text()}'
    there, elsewhere = _trust_falls(results)
    if math.isnan(there):
        return f'**Router.** The learned one ({results.reference}) {changes}.'
    told = ': it does not tell them apart' if there - elsewhere < TELLS_APART else ''
    return (
        f'**Router.** The learned one ({results.reference}) withdraws {there:+.4f} of its trust '
        f'where a sensor is spoiled and {elsewhere:+.4f} elsewhere, of 2 possible{told}. It '
        f'{changes}.'
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
    if max(starts) == min(starts):
        return []
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
    most = max(results.of(variant, WHOLE, drift).abs().max() for variant in scales)
    lines.append(
        f'In the last fifth of the training none of them moves by more than {most:.3f}. With a '
        'learning rate that has gone to 0 by then, that is no proof of an optimum.'
    )
    return lines


def condition_finding(results: StudyResults) -> list[str]:
    """Whether conditions want different scales: the highest learned one against the lowest."""
    scales = _starts(results)
    if len(scales) < 2:
        return []
    low, high = (choose(scales, key=lambda name: scales[name][1]) for choose in (min, max))
    parts = [part['name'] for part in results.parts if part['kind'] == 'condition']
    found = {part: results.compare(high, low, part) for part in parts if high != low}
    found = {part: each for part, each in found.items() if each.count}
    if not found:
        return []
    lines = [
        f'Models that end at a scale of {scales[high][1]:.2f} ({high}) against those at '
        f'{scales[low][1]:.2f} ({low}), mAP: '
        + ', '.join(f'{part} {each.text()}' for part, each in found.items())
        + '.'
    ]
    adjusted = holm([each.p_value for each in found.values()])
    judged = zip(found.items(), adjusted, strict=True)
    seen = [part for (part, each), p in judged if replace(each, p_value=p).is_significant]
    if not all(map(math.isnan, adjusted)):
        said = (
            f'An effect of the scale is seen for {", ".join(seen)}'
            if seen
            else 'For none of them an effect of the scale is shown'
        )
        lines.append(
            f'It has been claimed that conditions want different scales ({CLAIMED}). {said} '
            f'(p adjusted by Holm for {len(found)} conditions).'
        )
    return lines

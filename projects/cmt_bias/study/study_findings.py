"""What a study's numbers mean together, in sentences: where a gain is lost, and the scale.

Names of variants have a meaning here: 'no_bias' is the detector without the bias, 'oracle' has
weights that know what has failed, and those that begin with 'learned' differ in where their scale
starts. The reference of a study has a router.
"""

import math

import pandas as pd

from ..failures import CLEAN
from ..metrics.subset_evaluation import WHOLE
from ..ops import MODALITIES
from .seed_statistics import LEVEL, estimate, holm
from .study_results import FAILURE, FAILURES, StudyResults

NO_BIAS, ORACLE, LEARNED = 'no_bias', 'oracle', 'learned'
SHARED = 'scale (shared)'
CLAIMED = 'city 2.0 to 2.5, highway 3.0 to 3.5, night 3.5 to 4.0, rain 4.0 to 5.0'  # in logits
TELLS_APART = 0.02  # least difference of trust, of 2 possible, that is called one


def link_findings(results: StudyResults) -> list[str]:
    """At which of detector, bias and router a gain under failures is lost: the first not shown.

    A gain needs a detector that failures cost something, a bias that helps with perfect weights,
    and a router that finds them; p-values are adjusted as those of the answers are.
    """
    reference, failures = results.reference, results.failures()
    clean = results.of(NO_BIAS, CLEAN, 'mAP')
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
    (router,) = results.judge((reference, NO_BIAS, FAILURES, 'mAP'))
    if perfect.count:
        gains = {name: results.compare(ORACLE, NO_BIAS, name).mean for name in failures}
        lines.append(
            '**Bias.** Weights that know what has failed, 1 and -1 in these windows, change the '
            f'mAP under failures by {perfect.text()} ({_extremes(gains)}).'
        )
    there, elsewhere = (
        results.of(reference, FAILURES, f'trust fall, {where}').mean()
        for where in ('spoiled part', 'elsewhere')
    )
    tells_nothing = there - elsewhere < TELLS_APART
    if router.count:
        trust = ''
        if not math.isnan(there):
            trust = (
                f'moves its trust by {-there:+.4f} where a sensor is spoiled and by '
                f'{-elsewhere:+.4f} elsewhere, of 2 possible'
            )
            trust += ': it does not tell them apart. It ' if tells_nothing else '. It '
        changes = f'changes the mAP under failures by {router.text()}.'
        lines.append(f'**Router.** The learned one ({reference}) {trust}{changes}')
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
        verdict = 'nothing: the router'
        if tells_nothing:
            verdict = 'the router: it does not tell what is spoiled, and'
        verdict += f' gains {router.mean / perfect.mean:.0%} of what perfect weights do'
    return [*lines, f'What stands between the idea and a gain is **{verdict}**.']


def _extremes(values: dict[str, float]) -> str:
    """The failures with the lowest and highest of their values."""
    ends = dict.fromkeys(choose(values, key=values.__getitem__) for choose in (min, max))
    return ' to '.join(f'{name.removeprefix(FAILURE)} {values[name]:+.4f}' for name in ends)


def _scales(results: StudyResults) -> pd.DataFrame:
    """First and last value of the scale of variants that differ in its start; mean over seeds."""
    curves = results.curves.reindex(columns=[SHARED])[SHARED].dropna().sort_index()
    ends = curves.groupby(['variant', 'seed']).agg(['first', 'last']).groupby('variant').mean()
    learned = [name for name in results.variants if name.startswith(LEARNED)]
    return ends.reindex(learned).dropna()


def scale_findings(results: StudyResults) -> list[str]:
    """Whether starts meet, and whether the scale settles."""
    scales = _scales(results)
    distance = scales.max() - scales.min()
    if len(scales) < 2 or distance['first'] == 0:
        return []
    left = distance['last'] / distance['first']
    ways = sorted(scales.itertuples(index=False))
    told = ', '.join(f'{start:.2f} to {end:.2f}' for start, end in ways)
    meet = 'They do not meet: within this training the start decides, not the loss.'
    if left < 0.25:
        meet = 'They meet: the loss has a preference.'
    drifts = results.table(WHOLE, 'drift in the last fifth (shared)')
    most = drifts.reindex(columns=scales.index).abs().max(axis=None)
    return [
        f'The learned scales go from {told}: {left:.0%} of the distance between the starts is '
        f'left at the end. {meet}',
        f'In the last fifth of the training none of them moves by more than {most:.3f}. With a '
        'learning rate that has gone to 0 by then, that is no proof of an optimum.',
    ]


def product_finding(results: StudyResults) -> list[str]:
    """Whether routers make up for the scale: a bias is the product of weight and scale."""
    names = [v for v in results.variants if v == results.reference or v.startswith(LEARNED)]
    scales = results.table(WHOLE, f'final {SHARED}')
    biases = {m: (scales * results.table(CLEAN, f'{m} trust')).mean() for m in MODALITIES}
    ends = pd.DataFrame(biases).assign(scale=scales.mean()).reindex(names).dropna()
    if len(ends) < 2:
        return []
    told = '; '.join(
        f'{v} {row.scale:.2f} ({row.lidar:+.2f}, {row.camera:+.2f})' for v, row in ends.iterrows()
    )
    spread = (ends.max() - ends.min()) / ends.mean().abs()
    most = ends[[*MODALITIES]].mean().abs().idxmax()
    finding = f'The scale at the end, and times the mean trust in LiDAR and cameras: {told}.'
    if spread[most] < spread['scale'] / 3:
        finding += ' The routers make up for the scale: what the training finds is the product.'
    return [finding]


def condition_finding(results: StudyResults) -> list[str]:
    """Whether conditions want different scales: the highest learned one against the lowest."""
    ends = _scales(results)['last']
    if ends.nunique() < 2:
        return []
    low, high = ends.idxmin(), ends.idxmax()
    parts = [part['name'] for part in results.parts if part['kind'] == 'condition']
    compared = {part: results.compare(high, low, part) for part in parts}
    found = {part: each for part, each in compared.items() if each.count}
    if not found:
        return []
    told = ', '.join(f'{part} {each.text()}' for part, each in found.items())
    lines = [
        f'Models that end at a scale of {ends[high]:.2f} ({high}) against those at '
        f'{ends[low]:.2f} ({low}), mAP: {told}.'
    ]
    adjusted = holm([each.p_value for each in found.values()])
    if not all(map(math.isnan, adjusted)):
        seen = [part for part, p in zip(found, adjusted, strict=True) if p < 1 - LEVEL]
        said = 'For none of them an effect of the scale is shown'
        if seen:
            said = f'An effect of the scale is seen for {", ".join(seen)}'
        lines.append(
            f'It has been claimed that conditions want different scales ({CLAIMED}). {said} '
            f'(p adjusted by Holm for {len(found)} conditions).'
        )
    return lines

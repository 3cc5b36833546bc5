"""The report of one or several studies: one page, made from their tables alone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from ..atomic_file import write_atomically
from ..failures import CLEAN
from ..metrics.intervals import LEVEL
from ..metrics.nuscenes_metric_table import UNITS
from ..metrics.subset_evaluation import SMALL_OBJECTS, WHOLE
from .seed_statistics import (
    LEAST_SEEDS,
    POWER,
    Estimate,
    estimate,
    holm,
    residual_spread,
    smallest_visible_difference,
)
from .study_findings import condition_finding, link_findings, scale_findings
from .study_plots import save_curves, save_differences, save_trust
from .study_results import FAILURE, FAILURES, STUDY_FILE, Question, StudyResults, load_results

REPORT = 'README.md'
MISSING = '-'
LOWER_IS_BETTER = ('iterations to 95 %', 'loss roughness')

READING = f"""
## How to read this

- A difference is taken seed by seed between two variants, then averaged; brackets hold its 95 %
  interval by Student's t, n is the number of pairs. With fewer than {LEAST_SEEDS} pairs the
  spread is that of all variants together (what seeds and variants, each with an effect of its own,
  leave unexplained) or, where that is larger, its own: mind that variants may spread differently.
- p is adjusted by Holm for all questions of a study together. Intervals are not adjusted: of
  twenty of them one leaves out 0 by chance.
- Failures: mean over the sensor failures of the study, tested on fewer frames, as is 'clean'.
- Iterations to 95 %: first iteration at which the running mean of the loss has done 95 % of its
  way to its last value. Roughness: total variation of the logged loss around that mean. Drift:
  change of the scale in the last fifth of the training, in which the learning rate goes to 0.
- Trust: the router's weight of a sensor, from -1 to 1. Its fall is taken query by query against
  the test without failure, where the query looks at a spoiled part and elsewhere.
- All detection metrics are the official ones. A class without objects in a part counts there with
  AP 0, so compare variants within a part, not parts with each other. {UNITS}.
- runs.csv has every measure of every run by part and failure, curves.csv loss and scale.
"""


def write_report(studies: Mapping[str, StudyResults], out_dir: Path) -> Path:
    """Write the page, the tables that it is made from, and the pictures.

    Args:
        studies: Results by the name of their folder in ``out_dir``. Studies that were written
            there before are part of the page too.
        out_dir: Folder, made if need be.

    Returns:
        The page's path.

    Raises:
        ProblemsFound: If the tables of an earlier study are damaged.
    """
    for name, results in studies.items():
        results.save(out_dir / name)
    folders = sorted(path.parent for path in out_dir.glob(f'*/{STUDY_FILE}'))
    sections = [
        '# Does a learned bias scale help?\n\nMade from the tables in the folders beside it: '
        f'`python tools/analyze_study.py --out-dir {out_dir}`.'
    ]
    for folder in folders:
        sections += _study_sections(load_results(folder), folder)
    path = out_dir / REPORT
    text = '\n\n'.join(filter(None, [*sections, READING.strip()])) + '\n'
    write_atomically(path, text.encode())
    return path


def _study_sections(results: StudyResults, folder: Path) -> list[str]:
    """Of one study, its pictures written."""
    name = folder.name
    pictures = {
        f'![Differences in mAP to {results.reference}]({name}/differences.png)': save_differences,
        f'![Loss and scale over iterations]({name}/curves.png)': save_curves,
        f'![Trust and attention under failures]({name}/trust.png)': save_trust,
    }
    differences, curves, trust = (
        text if save(results, folder / text.split('/')[-1][:-1]) else ''
        for text, save in pictures.items()
    )
    return [
        _heading(results),
        _noise(results),
        _answers(results),
        _bullets('Why', link_findings(results)),
        '### Detection\n\n' + _score_table(results),
        differences,
        _bullets('By condition', condition_finding(results)),
        _bullets('Where the scale ends', scale_findings(results)),
        _training_table(results),
        curves,
        '### Whom the router trusts, and where attention goes\n\n' + _trust_table(results),
        trust,
    ]


def _bullets(title: str, lines: Sequence[str]) -> str:
    return '\n'.join([f'### {title}\n', *(f'- {line}' for line in lines)]) if lines else ''


def _heading(results: StudyResults) -> str:
    tested = results.table(WHOLE, 'mAP').count()
    total = len(results.variants) * len(results.seeds)
    parts = [f'{part["name"]} {part["samples"]}' for part in results.parts]
    text = (
        f'## {results.title}\n\n{tested.sum()} of {total} runs ('
        f'{len(results.variants)} variants x {len(results.seeds)} seeds) are tested; '
        f'together {results.hours:.1f} h on {results.device or "no device yet"}. '
        f'Test frames: {", ".join(parts) or "unknown"}.\n\n'
        f'```bash\n{results.command}\n```'
    )
    if results.missing:
        text += (
            '\n\n**Unfinished.** Every number is over the seeds that are there, every difference '
            'over those that both variants have; the command above, given again, goes on.\n\n'
        )
        text += '\n'.join(f'- {line}' for line in results.missing)
    return text


def _noise(results: StudyResults) -> str:
    """What the design can see, from the noise of the reference, whatever the outcome."""
    count = len(results.seeds)
    rows = []
    asked = dict.fromkeys((q.subset, q.metric) for q in results.questions)
    strict = 1 - (1 - LEVEL) / max(1, len(results.questions))
    for subset, metric in asked:
        noise = _spread(results, subset, metric)
        one, all_of_them = (
            smallest_visible_difference(math.sqrt(2) * noise, count, level=level)
            for level in (LEVEL, strict)
        )
        numbers = [_number(value, metric) for value in (noise, one, all_of_them)]
        rows.append([f'{metric}, {"all frames" if subset == WHOLE else subset}', *numbers])
    columns = ['measure', 'noise of a seed', f'visible with {count} seeds', 'as one of all']
    return (
        '### What the design can see\n\nFrom the standard deviation of the reference over seeds '
        f'(with less than {LEAST_SEEDS} of it that of all variants) alone: the true difference '
        f'that {count} seeds a variant find with {POWER:.0%} probability, by itself and as one of '
        f'all {len(results.questions)} questions (Bonferroni).\n\n{_markdown(rows, columns)}'
    )


def _spread(results: StudyResults, subset: str, metric: str) -> float:
    """Standard deviation of the reference over seeds; of all variants where it has too few."""
    own = results.of(results.reference, subset, metric).dropna()
    if len(own) >= LEAST_SEEDS:
        return float(own.std())
    table = results.table(subset, metric)
    spread, freedom = residual_spread(table) if len(table) else (math.nan, 0)
    return spread if freedom >= LEAST_SEEDS else math.nan


def _answers(results: StudyResults) -> str:
    """Each question with its interval and one sentence."""
    found = [results.compare(q.variant, q.against, q.subset, q.metric) for q in results.questions]
    adjusted = holm([each.p_value for each in found])
    answers = [
        f'**{question.text}** {_answer(question, each, p_value)}'
        for question, each, p_value in zip(results.questions, found, adjusted, strict=True)
    ]
    return _bullets('Answers', answers or ['The study asks no questions.'])


def _answer(question: Question, found: Estimate, p_value: float) -> str:
    where = '' if question.subset == WHOLE else f' ({question.subset})'
    what = f'{question.variant} against {question.against}, {question.metric}{where}'
    if math.isnan(found.low):
        return f'Not known: {found.count} pairs of seeds. ({what})'
    low, high = (_number(end, question.metric, '+') for end in (found.low, found.high))
    mean = _number(found.mean, question.metric, '+')
    is_better = (found.mean > 0) != (question.metric in LOWER_IS_BETTER)
    if p_value < 1 - LEVEL:
        said = 'Yes.' if is_better else 'No, the opposite.'
    elif found.leaves_out_zero:
        said = 'Not shown: its own interval leaves out 0, but not after the adjustment.'
    else:
        gain, loss = max(found.high, 0.0), max(-found.low, 0.0)
        said = (
            f'No difference seen; more than {_number(gain, question.metric)} above and '
            f'{_number(loss, question.metric)} below is excluded.'
        )
    if found.count == 1:
        said = f'As far as one seed tells: {said}'
    if question.claimed is not None:
        claim = _number(question.claimed, question.metric, '+')
        inside = found.low <= question.claimed <= found.high
        said += f' The claimed {claim} is {"not excluded" if inside else "excluded"}.'
    return f'{said} {what}: {mean} [{low}, {high}], n = {found.count}, p = {p_value:.2g}.'


def _number(value: float, metric: str, sign: str = '') -> str:
    """A value of a metric: scores with four digits, iterations with none."""
    digits = {'iterations to 95 %': 0, 'loss roughness': 1}.get(metric, 4)
    return MISSING if math.isnan(value) else f'{value:{sign}.{digits}f}'


def _cell(results: StudyResults, variant: str, subset: str, metric: str) -> str:
    """Mean and standard deviation over seeds."""
    values = results.of(variant, subset, metric).dropna()
    spread = f' ± {_number(values.std(), metric)}' if len(values) > 1 else ''
    return _number(values.mean(), metric) + spread


def _score_table(results: StudyResults) -> str:
    """Variants down: scores, their difference to the reference, small objects, failures."""
    rows = []
    for variant, title in results.variants.items():
        is_reference = variant == results.reference
        small = [results.of(variant, WHOLE, f'AP {name}').mean() for name in SMALL_OBJECTS]
        row = [f'**{variant}**' if is_reference else variant, title]
        row += [str(len(results.of(variant, WHOLE, 'mAP')))]
        row += [_cell(results, variant, WHOLE, metric) for metric in ('mAP', 'NDS')]
        row += ['' if is_reference else _difference(results, variant, WHOLE)]
        row += [_number(sum(small) / len(small), 'mAP'), _cell(results, variant, FAILURES, 'mAP')]
        row += ['' if is_reference else _difference(results, variant, FAILURES)]
        rows.append(row)
    columns = ['variant', 'what it is', 'seeds', 'mAP', 'NDS', 'Δ mAP', 'mAP, small objects']
    return _markdown(rows, [*columns, 'mAP under failures', 'Δ under failures'])


def _difference(results: StudyResults, variant: str, subset: str) -> str:
    found = results.compare(variant, results.reference, subset)
    known = '' if math.isnan(found.low) else f' [{found.low:+.4f}, {found.high:+.4f}]'
    return _number(found.mean, 'mAP', '+') + known


def _training_table(results: StudyResults) -> str:
    rows = []
    finals = [name for name in results.values if name.startswith('final scale')]
    for variant in results.variants:
        entries = [n[13:-1] for n in finals if len(results.of(variant, WHOLE, n))]
        ends = [results.of(variant, WHOLE, f'final scale ({name})') for name in entries]
        drifts = [results.of(variant, WHOLE, f'drift in the last fifth ({e})') for e in entries]
        row = [variant, *(_cell(results, variant, WHOLE, metric) for metric in LOWER_IS_BETTER)]
        row += ['; '.join(f'{e} {f.mean():.2f}' for e, f in zip(entries, ends, strict=True))]
        row += ['; '.join(f'{drift.mean():+.3f}' for drift in drifts)]
        rows.append([text or MISSING for text in row])
    columns = ['variant', *LOWER_IS_BETTER, 'final scale', 'drift']
    return _markdown(rows, columns)


def _trust_table(results: StudyResults) -> str:
    """How far trust falls where it should, and the attention on cameras, by variant."""
    rows = []
    for variant in results.variants:
        there, elsewhere = (
            results.of(variant, FAILURES, f'trust fall, {where}')
            for where in ('spoiled part', 'elsewhere')
        )
        more = estimate(there - elsewhere)
        interval = '' if math.isnan(more.low) else f' [{more.low:+.4f}, {more.high:+.4f}]'
        falls = [
            _number(there.mean(), '', '+'),
            _number(elsewhere.mean(), '', '+'),
            _number(more.mean, '', '+') + interval,
        ]
        shares = [
            results.of(variant, subset, 'camera attention').mean()
            for subset in (CLEAN, f'{FAILURE}camera_drop_all')
        ]
        percents = [MISSING if math.isnan(share) else f'{share:.1%}' for share in shares]
        trust = [
            _number(results.of(variant, CLEAN, f'{sensor} trust').mean(), '', '+')
            for sensor in ('lidar', 'camera')
        ]
        rows.append([variant, *trust, *falls, *percents])
    columns = [
        'variant',
        'trust in LiDAR, clean',
        'in cameras',
        'fall of trust, spoiled part',
        'elsewhere',
        'difference',
    ]
    columns += ['attention on cameras, clean', 'all cameras black']
    return _markdown(rows, columns)


def _markdown(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    return pd.DataFrame(rows, columns=list(columns)).to_markdown(
        index=False, disable_numparse=True
    )

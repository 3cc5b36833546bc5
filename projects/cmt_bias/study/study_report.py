"""The report of a study: one page, made from its tables alone."""

import math
from pathlib import Path

import pandas as pd

from ..atomic_file import write_atomically
from ..metrics.nuscenes_metric_table import UNITS
from ..metrics.subset_evaluation import SMALL_OBJECTS, WHOLE
from .seed_statistics import (
    LEVEL,
    POWER,
    Comparison,
    compare,
    holm,
    smallest_visible_difference,
)
from .study_plots import save_curves, save_differences
from .study_results import FAILURES, Question, StudyResults

REPORT, DIFFERENCES, CURVES = 'report.md', 'differences.png', 'curves.png'
MISSING = '-'

READING = f"""
- A difference is taken seed by seed between two variants, then averaged; brackets hold the 95 %
  interval of Student's t. p is adjusted by Holm for all questions of this study together.
- 'Can see' is the true difference that this number of seeds would find with {POWER:.0%}
  probability, from the spread of the reference over seeds.
- Iterations to 95 %: first iteration at which the running mean of the loss has done 95 % of its
  way to its last value. Roughness: total variation of the logged loss around that mean. Drift:
  change of the scale in the last fifth of the training.
- All detection metrics are the official ones. A class without objects in a part counts there with
  AP 0, so compare variants within a part, not parts with each other. {UNITS}.
- All measures of all runs, parts and failures are in runs.csv.
"""


def write_report(results: StudyResults, out_dir: Path) -> Path:
    """Write report.md with its pictures, and the tables that it is made from.

    Args:
        results: Of the study.
        out_dir: Folder, made if need be.

    Returns:
        The report's path.
    """
    results.save(out_dir)
    has_differences = save_differences(results, out_dir / DIFFERENCES)
    has_curves = save_curves(results, out_dir / CURVES)
    sections = [
        _heading(results),
        _missing(results),
        _answers(results),
        '## Detection\n\n' + _score_table(results),
        f'![Differences in mAP to {results.reference}]({DIFFERENCES})' if has_differences else '',
        '## Training and scale\n\n' + _training_table(results),
        f'![Loss and scale over iterations]({CURVES})' if has_curves else '',
        _trust(results),
        f'## How to read this\n{READING.rstrip()}',
    ]
    path = out_dir / REPORT
    write_atomically(path, ('\n\n'.join(filter(None, sections)) + '\n').encode())
    return path


def _heading(results: StudyResults) -> str:
    table = results.values
    runs = int(((table['metric'] == 'mAP') & (table['subset'] == WHOLE)).sum())
    total = len(results.variants) * len(results.seeds)
    parts = [f'{part["name"]} {part["samples"]}' for part in results.parts]
    return (
        f'# {results.title}\n\n{runs} of {total} runs ({len(results.variants)} variants x '
        f'{len(results.seeds)} seeds) are tested; together {results.hours:.1f} h on '
        f'{results.device or "no device yet"}. Test frames: {", ".join(parts) or "unknown"}.\n\n'
        f'```bash\n{results.command}\n```'
    )


def _missing(results: StudyResults) -> str:
    if not results.missing:
        return ''
    lines = '\n'.join(f'- {text}' for text in results.missing)
    return f'## Missing\n\nThe command above, given again, completes the study.\n\n{lines}'


def _answers(results: StudyResults) -> str:
    """Each question with its interval and one sentence."""
    found = [
        compare(results.values, q.variant, q.against, q.subset, q.metric)
        for q in results.questions
    ]
    adjusted = holm([comparison.p_value for comparison in found])
    lines = ['## Answers\n']
    for question, comparison, p_value in zip(results.questions, found, adjusted, strict=True):
        answer = _answer(results, question, comparison, p_value)
        lines.append(f'- **{question.text}** {answer}')
    if not results.questions:
        lines.append('The study asks no questions.')
    return '\n'.join(lines)


def _answer(
    results: StudyResults, question: Question, comparison: Comparison, p_value: float
) -> str:
    where = '' if question.subset == WHOLE else f' ({question.subset})'
    what = f'{question.variant} against {question.against}, {question.metric}{where}'
    if comparison.count < 2:
        return f'Not known: {comparison.count} pairs of seeds. ({what})'
    low, high = comparison.low, comparison.high
    numbers = f'{comparison.difference:+.4f} [{low:+.4f}, {high:+.4f}], n = {comparison.count}'
    if p_value < 1 - LEVEL:
        said = 'Higher.' if comparison.difference > 0 else 'Lower.'
    elif low > 0 or high < 0:
        said = 'Not shown: its own interval leaves out 0, but not after the adjustment.'
    else:
        said = f'No difference seen; one above {max(abs(low), abs(high)):.4f} is excluded.'
    if question.claimed is not None:
        fits = low <= question.claimed <= high
        said += f' The claimed {question.claimed:+.4f} is {"" if fits else "not "}in the interval.'
    visible = _visible(results, question.subset, question.metric)
    seen = '' if math.isnan(visible) else f'; can see {visible:.4f}'
    return f'{said} {what}: {numbers}, p = {p_value:.2g}{seen}.'


def _visible(results: StudyResults, subset: str, metric: str) -> float:
    """What the design can see, from the spread of the reference."""
    values = _values(results, results.reference, subset, metric)
    if len(values) < 2:
        return math.nan
    return smallest_visible_difference(math.sqrt(2) * values.std(), len(results.seeds))


def _values(results: StudyResults, variant: str, subset: str, metric: str) -> pd.Series:
    table = results.values
    chosen = (table['variant'] == variant) & (table['subset'] == subset)
    return table[chosen & (table['metric'] == metric)]['value'].dropna()


def _cell(results: StudyResults, variant: str, subset: str, metric: str, digits: int = 4) -> str:
    """Mean and standard deviation over seeds."""
    values = _values(results, variant, subset, metric)
    if values.empty:
        return MISSING
    spread = f' ± {values.std():.{digits}f}' if len(values) > 1 else ''
    count = f' (n = {len(values)})' if len(values) != len(results.seeds) else ''
    return f'{values.mean():.{digits}f}{spread}{count}'


def _score_table(results: StudyResults) -> str:
    """Variants down: scores, their difference to the reference, small objects, failures."""
    rows = []
    for variant, title in results.variants.items():
        name = f'**{variant}**' if variant == results.reference else variant
        row = {'variant': name, 'what it is': title}
        for metric in ('mAP', 'NDS'):
            row[metric] = _cell(results, variant, WHOLE, metric)
        row['Δ mAP'] = _difference(results, variant, WHOLE)
        small = [_values(results, variant, WHOLE, f'AP {name}').mean() for name in SMALL_OBJECTS]
        mean = sum(small) / len(small)
        row['mAP, small objects'] = MISSING if math.isnan(mean) else f'{mean:.4f}'
        row['mAP under failures'] = _cell(results, variant, FAILURES, 'mAP')
        row['Δ under failures'] = _difference(results, variant, FAILURES)
        rows.append(row)
    return _markdown(rows)


def _difference(results: StudyResults, variant: str, subset: str) -> str:
    if variant == results.reference:
        return ''
    found = compare(results.values, variant, results.reference, subset, 'mAP')
    if found.count < 1:
        return MISSING
    interval = '' if found.count < 2 else f' [{found.low:+.4f}, {found.high:+.4f}]'
    return f'{found.difference:+.4f}{interval}'


def _training_table(results: StudyResults) -> str:
    rows = []
    for variant in results.variants:
        table = results.values
        mine = table[(table['variant'] == variant) & (table['subset'] == WHOLE)]
        scales = [name for name in mine['metric'].unique() if name.startswith('final scale')]
        entries = [f'{name[13:-1]} {_cell(results, variant, WHOLE, name, 2)}' for name in scales]
        names = [f'drift in the last fifth ({name[13:-1]})' for name in scales]
        drifts = [f'{_values(results, variant, WHOLE, name).mean():+.3f}' for name in names]
        rows.append(
            {
                'variant': variant,
                'iterations to 95 %': _cell(results, variant, WHOLE, 'iterations to 95 %', 0),
                'loss roughness': _cell(results, variant, WHOLE, 'loss roughness', 1),
                'final scale': '; '.join(entries) or MISSING,
                'drift': '; '.join(drifts) or MISSING,
            }
        )
    return _markdown(rows)


def _trust(results: StudyResults) -> str:
    """How far the router's trust moves under each failure, for variants with a router."""
    table = results.values[results.values['metric'] == 'trust shift']
    if table.empty:
        return ''
    means = table.pivot_table(index='subset', columns='variant', values='value')
    order = [variant for variant in results.variants if variant in means]
    shown = means[order].map('{:+.3f}'.format)
    shown.index = [name.removeprefix('failure: ') for name in shown.index]
    text = (
        shown.rename_axis('failure').reset_index().to_markdown(index=False, disable_numparse=True)
    )
    return (
        '## Does trust move?\n\nChange of (LiDAR - cameras) of the mean weights under a failure, '
        f'against the test without it.\n\n{text}'
    )


def _markdown(rows: list[dict[str, str]]) -> str:
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)

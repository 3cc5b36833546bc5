"""The report of one or several studies: one page, made from their tables alone."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from ..atomic_file import save_figure, write_atomically
from ..failures import CLEAN
from ..metrics.nuscenes_metric_table import ERRORS, UNITS
from ..metrics.subset_evaluation import SMALL_OBJECTS, WHOLE
from .seed_statistics import (
    LEAST_SEEDS,
    LEVEL,
    POWER,
    Estimate,
    estimate,
    residual_spread,
    smallest_visible_difference,
)
from .study_findings import condition_finding, link_findings, product_finding, scale_findings
from .study_plots import draw_curves, draw_differences, draw_trust
from .study_results import FAILURE, FAILURES, STUDY_FILE, Question, StudyResults, load_results
from .training_curves import CLEAR_FALL, ROUGHNESS, SPEED

REPORT = 'README.md'
MISSING = '-'
DIGITS = {SPEED: 0, ROUGHNESS: 1}
"""Of the measures of a loss curve; scores have four."""
LOWER_IS_BETTER = (*DIGITS, *(f'm{name}' for name in ERRORS.values()))

READING = f"""
## How to read this

- A difference is taken seed by seed between two variants, then averaged; brackets hold its 95 %
  interval by Student's t, n is the number of pairs. With fewer than {LEAST_SEEDS} pairs of two
  variants the spread is that of all variants together (what seeds and variants, each with an
  effect of its own, leave unexplained), unless its own is larger: mind that variants may spread
  differently, of which one pair tells nothing.
- p is adjusted by Holm for all questions of a study together. Intervals are not adjusted: of
  twenty of them one leaves out 0 by chance. What is said to be excluded lies outside of one.
- Failures: mean over the sensor failures of the study, tested on fewer frames, as is 'clean'.
- Iterations to 95 %: first iteration at which the running mean of the loss has done 95 % of its
  way to its last value; not known of a run in which it falls by less than {CLEAR_FALL:.0f} times
  its own noise. Roughness: total variation of the logged loss around that mean. Drift: change of
  the scale in the last fifth of the training.
- Trust: the router's weight of a sensor, from -1 to 1. Its fall is taken query by query against
  the test without failure, where the query looks at a spoiled part and elsewhere.
- All detection metrics are the official ones. A class without objects in a part counts there with
  AP 0, so compare variants within a part, not parts with each other. {UNITS}.
- runs.csv has every measure of every run by part and failure, curves.csv loss and scale.
"""


def write_report(studies: Mapping[str, StudyResults], out_dir: Path) -> Path:
    """Write the page, the tables that it is made from, and the pictures; returns the page's path.

    ``studies`` are by the name of their folder in ``out_dir``. Studies that were written there
    before are part of the page too; ProblemsFound if their tables are damaged.
    """
    for name, results in studies.items():
        results.save(out_dir / name)
    sections = [
        '# Does a learned bias scale help?\n\nMade from the tables in the folders beside it: '
        f'`python tools/analyze_study.py --out-dir {out_dir}`.'
    ]
    for path in sorted(out_dir.glob(f'*/{STUDY_FILE}')):
        sections += _study_sections(load_results(path.parent), path.parent)
    text = '\n\n'.join(filter(None, [*sections, READING.strip()])) + '\n'
    write_atomically(out_dir / REPORT, text.encode())
    return out_dir / REPORT


def _study_sections(results: StudyResults, folder: Path) -> list[str]:
    """Of one study, its pictures written."""

    def picture(text: str, name: str, figure: Figure | None) -> str:
        if figure is None:
            return ''
        save_figure(figure, folder / name)
        return f'![{text}]({folder.name}/{name})'

    compared = f'Differences in mAP to {results.reference}'
    answers = [
        f'**{question.text}** {_answer(question, found)}'
        for question, found in zip(results.questions, results.judge(), strict=True)
    ]
    return [
        _heading(results),
        _noise(results),
        _bullets('Answers', answers or ['The study asks no questions.']),
        _bullets('Why', link_findings(results)),
        '### Detection\n\n' + _score_table(results),
        picture(compared, 'differences.png', draw_differences(results)),
        _bullets('By condition', condition_finding(results)),
        _bullets('Where the scale ends', scale_findings(results) + product_finding(results)),
        _training_table(results),
        picture('Loss and scale over iterations', 'curves.png', draw_curves(results)),
        '### Whom the router trusts, and where attention goes\n\n' + _trust_table(results),
        picture('Trust and attention under failures', 'trust.png', draw_trust(results)),
    ]


def _bullets(title: str, lines: Sequence[str]) -> str:
    return '\n'.join([f'### {title}\n', *(f'- {line}' for line in lines)]) if lines else ''


def _heading(results: StudyResults) -> str:
    tested = results.table(WHOLE, 'mAP').count().sum()
    num_variants, num_seeds = len(results.variants), len(results.seeds)
    parts = [f'{part["name"]} {part["samples"]}' for part in results.parts]
    text = (
        f'## {results.title}\n\n{tested} of {num_variants * num_seeds} runs ('
        f'{num_variants} variants x {num_seeds} seeds) are tested; '
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
    """What the design can see, whatever the outcome."""
    count, num_questions = len(results.seeds), len(results.questions)
    columns = ['measure', 'noise of a run', f'visible with {count} seeds', 'as one of all']
    rows = []
    for subset, metric in dict.fromkeys((q.subset, q.metric) for q in results.questions):
        table, form = results.table(subset, metric), f'.{DIGITS.get(metric, 4)}f'
        spread, freedom = residual_spread(table) if len(table) else (math.nan, 0)
        noise = spread if freedom >= LEAST_SEEDS else math.nan
        visible = [
            smallest_visible_difference(math.sqrt(2) * noise, count, level=level)
            for level in (LEVEL, 1 - (1 - LEVEL) / num_questions)
        ]
        where = 'all frames' if subset == WHOLE else subset
        rows.append([f'{metric}, {where}', *(_text(value, form) for value in (noise, *visible))])
    return (
        '### What the design can see\n\nFrom the noise of a run alone (what is left of it when '
        'each seed and each variant has an effect of its own): the true difference that '
        f'{count} seeds a variant find with {POWER:.0%} probability, by itself and as one of all '
        f'{num_questions} questions (Bonferroni).\n\n'
        + _markdown(pd.DataFrame(rows, columns=columns))
    )


def _answer(question: Question, found: Estimate) -> str:
    """One sentence, with the numbers that it is made from."""
    where = '' if question.subset == WHOLE else f' ({question.subset})'
    what = f'{question.variant} against {question.against}, {question.metric}{where}'
    digits = DIGITS.get(question.metric, 4)
    numbers = f'{what}: {found.text(digits)}, n = {found.count}'
    if math.isnan(found.p_value):
        is_speed = question.metric == SPEED
        both = 'a loss that falls clearly beyond its noise' if is_speed else 'both'
        why = f'{found.count} pairs of seeds have {both}' if found.count < 2 else 'all seeds alike'
        return f'Not known: {why}. {numbers}.'
    if found.is_significant:
        is_better = (found.mean > 0) != (question.metric in LOWER_IS_BETTER)
        said = 'Yes.' if is_better else 'No, the opposite.'
    elif found.leaves_out_zero:
        said = 'Not shown: its own interval leaves out 0, but not after the adjustment.'
    else:
        above, below = (f'{max(x, 0.0):.{digits}f}' for x in (found.high, -found.low))
        said = f'No difference seen; more than {above} above and {below} below is excluded.'
    if question.claimed is not None:
        inside = found.low <= question.claimed <= found.high
        judged = 'not excluded' if inside else 'excluded'
        said += f' The claimed {question.claimed:+.{digits}f} is {judged}.'
    return f'{said} {numbers}, p = {found.p_value:.2g}.'


def _cells(
    results: StudyResults, subset: str, metric: str, form: str = '', has_spread: bool = True
) -> list[str]:
    """Mean and, if wanted, standard deviation over seeds of each variant."""
    form = form or f'.{DIGITS.get(metric, 4)}f'
    cells = []
    for variant in results.variants:
        known = results.of(variant, subset, metric)
        spread = f' ± {known.std():{form}}' if has_spread and len(known) > 1 else ''
        cells.append(_text(known.mean(), form) + spread)
    return cells


def _text(value: float, form: str) -> str:
    return MISSING if math.isnan(value) else f'{value:{form}}'


def _score_table(results: StudyResults) -> str:
    """Variants down: scores, their difference to the reference, small objects, failures."""
    reference, variants = results.reference, results.variants
    changes: dict[str, list[str]] = {WHOLE: [], FAILURES: []}
    for subset, texts in changes.items():
        for v in variants:
            texts.append('' if v == reference else results.compare(v, reference, subset).text())
    small = pd.DataFrame([results.means(WHOLE, f'AP {name}') for name in SMALL_OBJECTS])
    table = {
        'variant': [f'**{v}**' if v == reference else v for v in variants],
        'what it is': list(variants.values()),
        'seeds': [len(results.of(v, WHOLE, 'mAP')) for v in variants],
        'mAP': _cells(results, WHOLE, 'mAP'),
        'NDS': _cells(results, WHOLE, 'NDS'),
        'Δ mAP': changes[WHOLE],
        'mAP, small objects': [_text(mean, '.4f') for mean in small.mean(skipna=False)],
        'mAP under failures': _cells(results, FAILURES, 'mAP'),
        'Δ under failures': changes[FAILURES],
    }
    return _markdown(table)


def _training_table(results: StudyResults) -> str:
    """How the loss fell, and where each entry of the scale ends."""
    table = {'variant': list(results.variants)}
    table |= {metric: _cells(results, WHOLE, metric) for metric in DIGITS}
    for column, measure, form in (
        ('final scale', 'final scale', '{0} {1:.2f}'),
        ('drift', 'drift in the last fifth', '{1:+.3f}'),
    ):
        names = [name for name in results.values if name.startswith(f'{measure} (')]
        means = {name[len(measure) + 2 : -1]: results.means(WHOLE, name) for name in names}
        table[column] = [
            '; '.join(form.format(*item) for item in row.dropna().items()) or MISSING
            for _, row in pd.DataFrame(means, index=list(results.variants)).iterrows()
        ]
    return _markdown(table)


def _trust_table(results: StudyResults) -> str:
    """How far trust falls where it should, and the attention on cameras, by variant."""

    def means(subset: str, metric: str, form: str = '+.4f') -> list[str]:
        return _cells(results, subset, metric, form, has_spread=False)

    attention, black = 'camera attention', f'{FAILURE}camera_drop_all'
    there, elsewhere = 'trust fall, spoiled part', 'trust fall, elsewhere'
    falls = [
        [results.of(v, FAILURES, part) for part in (there, elsewhere)] for v in results.variants
    ]
    table = {
        'variant': list(results.variants),
        'trust in LiDAR, clean': means(CLEAN, 'lidar trust'),
        'in cameras': means(CLEAN, 'camera trust'),
        'fall of trust, spoiled part': means(FAILURES, there),
        'elsewhere': means(FAILURES, elsewhere),
        'difference': [estimate(spoiled - rest).text() for spoiled, rest in falls],
        'attention on cameras, clean': means(CLEAN, attention, '.1%'),
        'all cameras black': means(black, attention, '.1%'),
    }
    return _markdown(table)


def _markdown(columns: Mapping[str, Any] | pd.DataFrame) -> str:
    return pd.DataFrame(columns).to_markdown(index=False, disable_numparse=True)

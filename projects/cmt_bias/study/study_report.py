"""The report of one or several studies: one page, made from their tables alone."""

import math
from collections.abc import Callable, Mapping, Sequence
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
    """Write the page, the tables that it is made from, and the pictures; returns the page's path.

    ``studies`` are by the name of their folder in ``out_dir``. Studies that were written there
    before are part of the page too.

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

    def picture(text: str, name: str, save: Callable[[StudyResults, Path], bool]) -> str:
        return f'![{text}]({folder.name}/{name})' if save(results, folder / name) else ''

    compared = f'Differences in mAP to {results.reference}'
    return [
        _heading(results),
        _noise(results),
        _bullets('Answers', _answers(results) or ['The study asks no questions.']),
        _bullets('Why', link_findings(results)),
        '### Detection\n\n' + _score_table(results),
        picture(compared, 'differences.png', save_differences),
        _bullets('By condition', condition_finding(results)),
        _bullets('Where the scale ends', scale_findings(results)),
        _training_table(results),
        picture('Loss and scale over iterations', 'curves.png', save_curves),
        '### Whom the router trusts, and where attention goes\n\n' + _trust_table(results),
        picture('Trust and attention under failures', 'trust.png', save_trust),
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
    """What the design can see, from the noise of the reference, whatever the outcome."""
    count, num_questions = len(results.seeds), len(results.questions)
    columns = ['measure', 'noise of a seed', f'visible with {count} seeds', 'as one of all']
    rows = []
    for subset, metric in dict.fromkeys((q.subset, q.metric) for q in results.questions):
        noise = _spread(results, subset, metric)
        visible = [
            smallest_visible_difference(math.sqrt(2) * noise, count, level=level)
            for level in (LEVEL, 1 - (1 - LEVEL) / num_questions)
        ]
        numbers = [_number(value, metric) for value in (noise, *visible)]
        rows.append([f'{metric}, {"all frames" if subset == WHOLE else subset}', *numbers])
    return (
        '### What the design can see\n\nFrom the standard deviation of the reference over seeds '
        f'(with less than {LEAST_SEEDS} of it that of all variants) alone: the true difference '
        f'that {count} seeds a variant find with {POWER:.0%} probability, by itself and as one of '
        f'all {num_questions} questions (Bonferroni).\n\n'
        + _markdown(pd.DataFrame(rows, columns=columns))
    )


def _spread(results: StudyResults, subset: str, metric: str) -> float:
    """Standard deviation of the reference over seeds; of all variants where it has too few."""
    own = results.of(results.reference, subset, metric)
    if len(own) >= LEAST_SEEDS:
        return float(own.std())
    table = results.table(subset, metric)
    spread, freedom = residual_spread(table) if len(table) else (math.nan, 0)
    return spread if freedom >= LEAST_SEEDS else math.nan


def _answers(results: StudyResults) -> list[str]:
    """Each question with its interval and one sentence."""
    found = [results.compare(q.variant, q.against, q.subset, q.metric) for q in results.questions]
    adjusted = holm([each.p_value for each in found])
    return [
        f'**{question.text}** {_answer(question, each, p_value)}'
        for question, each, p_value in zip(results.questions, found, adjusted, strict=True)
    ]


def _answer(question: Question, found: Estimate, p_value: float) -> str:
    where = '' if question.subset == WHOLE else f' ({question.subset})'
    what = f'{question.variant} against {question.against}, {question.metric}{where}'
    if math.isnan(found.low):
        return f'Not known: {found.count} pairs of seeds. ({what})'
    if p_value < 1 - LEVEL:
        is_better = (found.mean > 0) != (question.metric in LOWER_IS_BETTER)
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
    numbers = _difference(found, question.metric)
    return f'{said} {what}: {numbers}, n = {found.count}, p = {p_value:.2g}.'


def _number(value: float, metric: str = '', sign: str = '') -> str:
    """A value of a metric: scores with four digits, iterations with none."""
    digits = {'iterations to 95 %': 0, 'loss roughness': 1}.get(metric, 4)
    return MISSING if math.isnan(value) else f'{value:{sign}.{digits}f}'


def _difference(found: Estimate, metric: str = '') -> str:
    """The mean and, where it is known, its interval."""
    mean, low, high = (_number(x, metric, '+') for x in (found.mean, found.low, found.high))
    return mean if math.isnan(found.low) else f'{mean} [{low}, {high}]'


def _cell(results: StudyResults, variant: str, subset: str, metric: str) -> str:
    """Mean and standard deviation over seeds."""
    values = results.of(variant, subset, metric)
    spread = f' ± {_number(values.std(), metric)}' if len(values) > 1 else ''
    return _number(values.mean(), metric) + spread


def _changes(results: StudyResults, subset: str) -> list[str]:
    """The difference of each variant to the reference."""
    return [
        ''
        if variant == results.reference
        else _difference(results.compare(variant, results.reference, subset))
        for variant in results.variants
    ]


def _score_table(results: StudyResults) -> str:
    """Variants down: scores, their difference to the reference, small objects, failures."""

    def cells(subset: str, metric: str) -> list[str]:
        return [_cell(results, variant, subset, metric) for variant in results.variants]

    small = pd.DataFrame([results.means(WHOLE, f'AP {name}') for name in SMALL_OBJECTS])
    table = {
        'variant': [f'**{v}**' if v == results.reference else v for v in results.variants],
        'what it is': list(results.variants.values()),
        'seeds': [len(results.of(variant, WHOLE, 'mAP')) for variant in results.variants],
        'mAP': cells(WHOLE, 'mAP'),
        'NDS': cells(WHOLE, 'NDS'),
        'Δ mAP': _changes(results, WHOLE),
        'mAP, small objects': [_number(value) for value in small.mean(skipna=False)],
        'mAP under failures': cells(FAILURES, 'mAP'),
        'Δ under failures': _changes(results, FAILURES),
    }
    return _markdown(pd.DataFrame(table))


def _training_table(results: StudyResults) -> str:
    rows = []
    finals = [name for name in results.values if name.startswith('final scale')]
    for variant in results.variants:
        entries = [name[13:-1] for name in finals if len(results.of(variant, WHOLE, name))]
        ends, drifts = (
            [results.of(variant, WHOLE, f'{measure} ({entry})').mean() for entry in entries]
            for measure in ('final scale', 'drift in the last fifth')
        )
        row = [variant, *(_cell(results, variant, WHOLE, metric) for metric in LOWER_IS_BETTER)]
        row += ['; '.join(f'{e} {end:.2f}' for e, end in zip(entries, ends, strict=True))]
        row += ['; '.join(f'{drift:+.3f}' for drift in drifts)]
        rows.append([text or MISSING for text in row])
    columns = ['variant', *LOWER_IS_BETTER, 'final scale', 'drift']
    return _markdown(pd.DataFrame(rows, columns=columns))


def _trust_table(results: StudyResults) -> str:
    """How far trust falls where it should, and the attention on cameras, by variant."""

    def signed(subset: str, metric: str) -> list[str]:
        return [_number(value, sign='+') for value in results.means(subset, metric)]

    def percents(subset: str) -> list[str]:
        shares = results.means(subset, 'camera attention')
        return [MISSING if math.isnan(share) else f'{share:.1%}' for share in shares]

    there, elsewhere = 'trust fall, spoiled part', 'trust fall, elsewhere'
    more = [
        results.of(variant, FAILURES, there) - results.of(variant, FAILURES, elsewhere)
        for variant in results.variants
    ]
    table = {
        'variant': list(results.variants),
        'trust in LiDAR, clean': signed(CLEAN, 'lidar trust'),
        'in cameras': signed(CLEAN, 'camera trust'),
        'fall of trust, spoiled part': signed(FAILURES, there),
        'elsewhere': signed(FAILURES, elsewhere),
        'difference': [_difference(estimate(values)) for values in more],
        'attention on cameras, clean': percents(CLEAN),
        'all cameras black': percents(f'{FAILURE}camera_drop_all'),
    }
    return _markdown(pd.DataFrame(table))


def _markdown(table: pd.DataFrame) -> str:
    return table.to_markdown(index=False, disable_numparse=True)

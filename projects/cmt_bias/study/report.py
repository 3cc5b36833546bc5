"""The Markdown report of a study."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from ..atomic_file import write_atomically
from ..metrics.nuscenes_metric_table import UNITS
from ..metrics.subset_evaluation import SMALL_OBJECTS, WHOLE
from .report_plots import draw_differences, draw_loss_curves, draw_scale_curves
from .seed_statistics import LEVEL, NO_DIFFERENCE, t_interval
from .study_results import StudyResults
from .training_progress import duration_text

SCORES = ('mAP', 'NDS')
ERRORS = ('mATE', 'mASE', 'mAOE', 'mAVE', 'mAAE')
SMALL = tuple(f'AP {name}' for name in SMALL_OBJECTS)
TRAINING = ('iterations to 95 %', 'loss roughness')
LOWER_IS_BETTER = {*ERRORS, *TRAINING}
SCALE, DRIFT = 'final scale', 'drift in the last fifth'
DIGITS = {
    **dict.fromkeys((*ERRORS, *SMALL, SCALE, DRIFT), 3),
    **dict.fromkeys(TRAINING, 1),
}
MISSING = '-'

DEFINITIONS = f"""
- Every number is the mean over the seeds of a variant ± their standard deviation (n - 1), with
  the number of seeds n where it is not that of the study.
- A difference is taken seed by seed to the same seed of the reference, then averaged; in brackets
  the 95 % interval of Student's t for it. With one seed there is no interval.
- 'higher' and 'lower' are said where that interval leaves out 0, '{NO_DIFFERENCE}' where it does
  not: the effect may then be none, or too small for this number of seeds.
- Iterations to 95 %: first iteration at which the running mean of the loss (a twentieth of the
  logged points, at least 5) has done 95 % of its way to its last value. Loss roughness: total
  variation of the logged loss around that mean.
- Drift in the last fifth: last value of the scale minus that at 80 % of the iterations.
- All detection metrics are those of the official nuScenes evaluation, run on the samples of a
  condition, or on the boxes (annotated and detected) in a band of distance from the vehicle. A
  class without objects in a part counts there with AP 0 and errors of 1, as the official code has
  it, so parts can be compared between variants, but not with each other. nuScenes counts cones and
  barriers to 30 m, pedestrians and two-wheelers to 40 m, other vehicles to 50 m.
- Errors: {UNITS}.
"""


def write_report(results: StudyResults, out_dir: Path) -> Path:
    """Write report.md, its pictures, runs.csv, summary.csv and parts.csv.

    Args:
        results: Of the study.
        out_dir: Folder, made if need be.

    Returns:
        The report's path.
    """
    out_dir.mkdir(parents=True, exist_ok=True)
    _write_csv(results.values, out_dir / 'runs.csv')
    _write_csv(results.summary, out_dir / 'summary.csv')
    _write_csv(_parts_table(results), out_dir / 'parts.csv')
    sections = (
        _heading,
        _missing_section,
        _findings_section,
        _scores_section,
        _scale_section(out_dir),
        _training_section(out_dir),
        _errors_section,
        _parts_section(out_dir),
        _definitions_section,
    )
    text = '\n\n'.join(part for section in sections if (part := section(results)))
    path = out_dir / 'report.md'
    write_atomically(path, (text + '\n').encode())
    return path


def _heading(results: StudyResults) -> str:
    """Title, what was run, where and how long."""
    record = results.record
    tested = sum(run.is_tested for run in results.runs)
    seconds = sum(sum(run.state.seconds.values()) for run in results.runs if run.state)
    devices = sorted({run.state.device for run in results.runs if run.state and run.state.device})
    table = pd.DataFrame(
        [
            {
                'variant': f'**{name}** (reference)' if name == record.reference else name,
                'what it is': title,
                'seeds tested': _seeds_tested(results, name),
            }
            for name, title in record.variants.items()
        ]
    )
    return '\n'.join(
        [
            f'# {record.title}\n',
            f'{tested} of {len(results.runs)} runs are trained and tested; together '
            f'{duration_text(seconds)} on {", ".join(devices) or "no device yet"}. All start from '
            f'`{record.start}`.\n',
            'Repeat with:\n',
            f'```bash\n{record.command}\n```\n',
            _markdown(table),
        ]
    )


def _seeds_tested(results: StudyResults, variant: str) -> str:
    runs = [run for run in results.runs if run.variant == variant]
    done = [str(run.seed) for run in runs if run.is_tested]
    return f'{len(done)} of {len(runs)}' + (f' ({", ".join(done)})' if done else '')


def _missing_section(results: StudyResults) -> str:
    problems = results.problems
    if not problems:
        return ''
    lines = [f'- {problem}' for problem in problems]
    remedy = 'The numbers below are those of the runs that are there. To complete the study, give'
    return '\n'.join(['## Missing\n', f'{remedy} the command above again.\n', *lines])


def _findings_section(results: StudyResults) -> str:
    """What the intervals allow to say, and how much chance alone would give."""
    reference = results.record.reference
    lines = ['## What the intervals allow to say\n']
    if not any(run.is_tested for run in results.runs):
        return lines[0] + '\nNothing yet: no run is tested.'
    for variant in results.record.variants:
        if variant != reference:
            lines.append(f'- **{variant}** against {reference}: {_finding(results, variant)}.')
    noise = [
        f'{metric} {_number(metric, row["std"])}'
        for metric in SCORES
        if (row := _row(results, reference, WHOLE, metric)) is not None and row['n'] > 1
    ]
    if noise:
        lines.append(
            f'\nNoise of a seed (standard deviation of {reference} over seeds): '
            f'{", ".join(noise)}.'
        )
    return '\n'.join([*lines, '', _chance_sentence(results)]).rstrip()


def _finding(results: StudyResults, variant: str) -> str:
    parts = []
    for metric in SCORES:
        row = _row(results, variant, WHOLE, metric)
        if row is None:
            parts.append(f'{metric}: no run tested')
        elif row['pairs'] < 2:
            parts.append(f'{metric}: {row["verdict"]}')
        else:
            difference = f'{_difference(metric, row)}, n = {row["pairs"]}'
            parts.append(f'{metric}: {row["verdict"]} ({difference})')
    return '; '.join(parts)


def _chance_sentence(results: StudyResults) -> str:
    """A reminder that some of many intervals leave out 0 by chance."""
    summary = results.summary
    # A learned scale is another than a fixed one by construction.
    of_scale = summary['metric'].str.startswith((SCALE, DRIFT))
    judged = summary[(summary['pairs'] > 1) & ~of_scale]
    seen = int(judged['verdict'].isin(['higher', 'lower']).sum())
    if judged.empty:
        return ''
    return (
        f'Of all {len(judged)} intervals of losses and detection metrics in summary.csv {seen} '
        f'leave out 0; if no variant made any difference, about {(1 - LEVEL) * len(judged):.0f} '
        'would do so by chance. They are not independent of each other.'
    )


def _scores_section(results: StudyResults) -> str:
    return '## Detection, all samples\n\n' + _metric_table(results, WHOLE, SCORES)


def _errors_section(results: StudyResults) -> str:
    return '\n\n'.join(
        [
            '## Errors (lower is better)',
            _metric_table(results, WHOLE, ERRORS),
            '## Small objects',
            _metric_table(results, WHOLE, SMALL),
        ]
    )


def _scale_section(out_dir: Path) -> Callable[[StudyResults], str]:
    def section(results: StudyResults) -> str:
        picture = draw_scale_curves(results, out_dir / 'scale_curves.png')
        rows = _scale_rows(results)
        table = _markdown(pd.DataFrame(rows)) if rows else 'No training with a bias is finished.'
        image = '![Bias scale over iterations](scale_curves.png)' if picture else ''
        return '\n\n'.join(part for part in ['## The scale', table, image] if part)

    return section


def _scale_rows(results: StudyResults) -> list[dict[str, str]]:
    """A row for each variant and each entry of its scale."""
    metrics = [name for name in pd.unique(results.summary['metric']) if name.startswith(SCALE)]
    planned = len(results.record.seeds)
    rows = []
    for variant in results.record.variants:
        for metric in metrics:
            final = _row(results, variant, WHOLE, metric)
            if final is None:
                continue
            drift_metric = metric.replace(SCALE, DRIFT)
            drift = _row(results, variant, WHOLE, drift_metric)
            rows.append(
                {
                    'variant': variant,
                    'scale': metric[len(SCALE) + 2 : -1],
                    'final': _mean_and_deviation(SCALE, final, planned),
                    DRIFT: _mean_and_deviation(DRIFT, drift, planned),
                    '95 % interval of the drift': _interval_of(results, variant, drift_metric),
                }
            )
    return rows


def _interval_of(results: StudyResults, variant: str, metric: str) -> str:
    """The interval of a mean over seeds."""
    values = results.values
    chosen = values[(values['variant'] == variant) & (values['metric'] == metric)]['value']
    low, high = t_interval(chosen.tolist())
    return MISSING if math.isnan(low) else f'[{low:+.3f}, {high:+.3f}]'


def _training_section(out_dir: Path) -> Callable[[StudyResults], str]:
    def section(results: StudyResults) -> str:
        picture = draw_loss_curves(results, out_dir / 'loss_curves.png')
        image = '![Training loss over iterations](loss_curves.png)' if picture else ''
        table = _metric_table(results, WHOLE, TRAINING)
        return '\n\n'.join(
            part for part in ['## Training (lower is better)', table, image] if part
        )

    return section


def _parts_section(out_dir: Path) -> Callable[[StudyResults], str]:
    def section(results: StudyResults) -> str:
        parts = [subset for subset in results.subsets if subset.kind != 'whole']
        if not parts:
            return '## By condition and distance\n\nNo run has these metrics.'
        picture = draw_differences(results, out_dir / 'differences.png', SCORES)
        blocks = ['## By condition and distance', _markdown(_parts_table(results))]
        if picture:
            blocks.append('![Differences in mAP and NDS by part](differences.png)')
        for part in parts:
            blocks += [f'### {part.name}', _metric_table(results, part.name, SCORES)]
            blocks += [_metric_table(results, part.name, metrics) for metrics in (ERRORS, SMALL)]
        return '\n\n'.join(blocks)

    return section


def _definitions_section(results: StudyResults) -> str:
    return f'## How to read this\n{DEFINITIONS.rstrip()}'


def _parts_table(results: StudyResults) -> pd.DataFrame:
    """How much there is in each part of the test."""
    return pd.DataFrame(
        [
            {
                'part': subset.name,
                'kind': subset.kind,
                'samples': subset.samples,
                'objects': subset.objects,
                'classes without objects': ', '.join(subset.absent_classes) or MISSING,
            }
            for subset in results.subsets
        ],
        columns=['part', 'kind', 'samples', 'objects', 'classes without objects'],
    )


def _metric_table(results: StudyResults, subset: str, metrics: Sequence[str]) -> str:
    """Variants down, metrics across: means, and differences where more than one pair allows."""
    rows = []
    for variant in results.record.variants:
        cells = {'variant': variant}
        for metric in metrics:
            row = _row(results, variant, subset, metric)
            cells[metric] = _mean_and_deviation(metric, row, len(results.record.seeds))
            cells[f'Δ {metric}'] = _difference_cell(metric, row)
        rows.append(cells)
    return _markdown(pd.DataFrame(rows))


def _row(results: StudyResults, variant: str, subset: str, metric: str) -> pd.Series | None:
    summary = results.summary
    found = summary[
        (summary['variant'] == variant)
        & (summary['subset'] == subset)
        & (summary['metric'] == metric)
    ]
    return None if found.empty else found.iloc[0]


def _mean_and_deviation(metric: str, row: pd.Series | None, planned: int | None = None) -> str:
    if row is None:
        return MISSING
    deviation = '' if math.isnan(row['std']) else f' ± {_number(metric, row["std"])}'
    count = f' (n = {row["n"]})' if planned is not None and row['n'] != planned else ''
    return _number(metric, row['mean']) + deviation + count


def _difference_cell(metric: str, row: pd.Series | None) -> str:
    if row is None or row['verdict'] == 'reference':
        return '' if row is not None else MISSING
    if row['pairs'] < 1:
        return MISSING
    text = _difference(metric, row)
    if row['verdict'] not in ('higher', 'lower'):
        return text
    better = (row['verdict'] == 'lower') == (metric in LOWER_IS_BETTER)
    return f'**{text}** {"better" if better else "worse"}'


def _difference(metric: str, row: pd.Series) -> str:
    text = _number(metric, row['difference'], sign=True)
    if math.isnan(row['low']):
        return text
    low, high = (_number(metric, row[end], sign=True) for end in ('low', 'high'))
    return f'{text} [{low}, {high}]'


def _number(metric: str, value: float, sign: bool = False) -> str:
    """A number with as many digits as its metric deserves."""
    return f'{value:{"+" if sign else ""}.{DIGITS.get(metric, 4)}f}'


def _markdown(table: pd.DataFrame) -> str:
    return table.to_markdown(index=False, disable_numparse=True)


def _write_csv(table: pd.DataFrame, path: Path) -> None:
    write_atomically(path, table.to_csv(index=False).encode())

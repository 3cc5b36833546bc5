"""What the runs of a study gave, as tables that the report is made from."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from mmengine.config import Config
from nuscenes import NuScenes

from ..atomic_file import write_atomically
from ..failures import CLEAN
from ..metrics.metric_configs import nuscenes_metric_configs
from ..metrics.nuscenes_metric_table import parse_nuscenes_metrics
from ..metrics.subset_evaluation import EVALUATED_SPLITS, WHOLE, Subset, SubsetEvaluation
from ..problem import Problem
from ..runs.preflight import ProblemsFound
from .seed_statistics import RUN_COLUMNS
from .study_config import Question, Study
from .study_run import CONFIG_FILE, DETECTIONS, FAILURES_FOLDER, TRAIN_FOLDER, RunState, read_state
from .training_curves import loss_measures, read_losses, read_scales, scale_measures

STUDY_FILE, RUNS_FILE, CURVES_FILE = 'study.json', 'runs.csv', 'curves.csv'
SUBSETS_FILE = 'subset_metrics.json'
FAILURES = 'failures'
WATCHED = {
    'lidar trust': 'lidar_weight',
    'camera trust': 'camera_weight',
    'trust shift': 'shift',
    'trust fall, spoiled part': 'fall_spoiled',
    'trust fall, elsewhere': 'fall_elsewhere',
    'camera attention': 'camera_attention',
}
"""Measures under a failure, and their columns in robustness.csv."""
CURVE_POINTS = 60
"""Points that are kept of each curve; a picture shows no more."""


@dataclass
class StudyResults:
    """A study and what its runs gave.

    Attributes:
        title: Heading of the report.
        variants: Title of each variant by its name, in order.
        reference: Variant that the others are compared with.
        seeds: Of each variant.
        questions: What the report answers.
        command: What made the runs.
        device: Where they ran.
        hours: Wall-clock time of all runs together.
        parts: Name and kind of each part of the test, with its numbers of samples and objects.
        missing: What is not there, for the reader.
        values: A row for each run, subset and metric; columns of :data:`RUN_COLUMNS`. The subset
            'failures' is the mean over the sensor failures, 'failure: <name>' is one of them.
        curves: Rows with variant, seed, iteration, name ('loss' or 'scale (<entry>)') and value.
    """

    title: str
    variants: dict[str, str]
    reference: str
    seeds: tuple[int, ...]
    questions: tuple[Question, ...]
    command: str
    device: str = ''
    hours: float = 0.0
    parts: list[dict[str, Any]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    values: pd.DataFrame = field(default_factory=pd.DataFrame)
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)

    def save(self, folder: Path) -> None:
        """Write study.json, runs.csv and curves.csv."""
        content = asdict(self)
        for table, name in (('values', RUNS_FILE), ('curves', CURVES_FILE)):
            text = content.pop(table).to_csv(index=False, float_format='%.7g')
            write_atomically(folder / name, text.encode())
        write_atomically(folder / STUDY_FILE, json.dumps(content, indent=2).encode())


def load_results(folder: Path) -> StudyResults:
    """What :meth:`StudyResults.save` has written.

    Raises:
        ProblemsFound: If the folder has no such files, or damaged ones.
    """
    try:
        content = json.loads((folder / STUDY_FILE).read_text())
        content['seeds'] = tuple(content['seeds'])
        content['questions'] = tuple(Question(**question) for question in content['questions'])
        tables = {
            'values': pd.read_csv(folder / RUNS_FILE),
            'curves': pd.read_csv(folder / CURVES_FILE),
        }
        return StudyResults(**content, **tables)
    except (OSError, ValueError, TypeError, KeyError) as error:
        what = f"'{folder}' has no readable results of a study: {error}"
        remedy = (
            'name the --work-dir of tools/run_study.py, or a folder that this tool has written'
        )
        raise ProblemsFound([Problem(what, remedy)]) from error


def write_record(work_dir: Path, study: Study, command: str) -> None:
    """Note what a study is in its work directory, before its first run."""
    record = StudyResults(
        title=study.title,
        variants=dict(study.variants),
        reference=study.reference,
        seeds=study.seeds,
        questions=study.questions,
        command=command,
        values=pd.DataFrame(columns=RUN_COLUMNS),
        curves=pd.DataFrame(columns=['variant', 'seed', 'iteration', 'name', 'value']),
    )
    record.save(work_dir)


def run_folder(work_dir: Path, variant: str, seed: int) -> Path:
    """Where a run is."""
    return work_dir / variant / f'seed_{seed}'


def collect_results(work_dir: Path) -> StudyResults:
    """Read all runs of a study, as far as they are there, and save the tables beside them.

    Args:
        work_dir: ``--work-dir`` of tools/run_study.py.

    Returns:
        What is there; what is not is in :attr:`StudyResults.missing`.

    Raises:
        ProblemsFound: If the folder is not that of a study.
    """
    results = load_results(work_dir)
    results.missing, results.hours, results.device = [], 0.0, ''
    reader = _RunReader()
    rows: list[tuple[str, int, str, str, float]] = []
    curves: list[pd.DataFrame] = []
    for variant in results.variants:
        for seed in results.seeds:
            run = reader.read(run_folder(work_dir, variant, seed))
            results.missing += [f'{variant}, seed {seed}: {text}' for text in run.missing]
            rows += [
                (variant, seed, subset, metric, value)
                for (subset, metric), value in run.measures.items()
            ]
            curves += [
                pd.DataFrame(dict(variant=variant, seed=seed, name=name, value=curve))
                .rename_axis('iteration')
                .reset_index()
                for name, curve in run.curves.items()
            ]
            if run.state is not None:
                results.hours += sum(run.state.seconds.values()) / 3600
                results.device = run.state.device or results.device
    results.parts = reader.parts
    results.values = pd.DataFrame(rows, columns=RUN_COLUMNS).astype({'value': float})
    if curves:
        results.curves = pd.concat(curves, ignore_index=True)
    results.save(work_dir)
    return results


@dataclass
class _Run:
    state: RunState | None = None
    measures: dict[tuple[str, str], float] = field(default_factory=dict)
    curves: dict[str, pd.Series] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


class _RunReader:
    """Reads runs; the tables of nuScenes are loaded once for all."""

    def __init__(self) -> None:
        self._tables: dict[tuple[str, str], NuScenes] = {}
        self.parts: list[dict[str, Any]] = []

    def read(self, folder: Path) -> _Run:
        """What is there of a run, and what is not."""
        run = _Run(read_state(folder))
        state = run.state
        if state is None:
            run.missing.append('not started')
            return run
        if state.failure:
            run.missing.append(f'failed: {state.failure}')
        elif not (state.checkpoint and state.metrics):
            run.missing.append('not finished')
        if state.checkpoint:  # an unfinished training has no final values
            self._read_training(folder, run)
        if state.metrics:
            self._read_subsets(folder, run)
        if state.failures_tested:
            _read_failures(folder, run)
        return run

    def _read_training(self, folder: Path, run: _Run) -> None:
        losses = read_losses(folder / TRAIN_FOLDER)
        scales = read_scales(folder / TRAIN_FOLDER)
        measures = {**loss_measures(losses), **scale_measures(scales)}
        run.measures.update({(WHOLE, name): value for name, value in measures.items()})
        curves = {'loss': losses, **{f'scale ({name})': scales[name] for name in scales}}
        run.curves = {name: thinned(curve) for name, curve in curves.items() if len(curve)}
        if losses.empty:
            run.missing.append(f"no loss in '{folder / TRAIN_FOLDER}/*/vis_data'")

    def _read_subsets(self, folder: Path, run: _Run) -> None:
        """Metrics by subset; without the data set those of the whole, as the test wrote them."""
        assert run.state is not None
        try:
            subsets = self._subsets(folder)
        except (OSError, AssertionError, KeyError, ValueError) as error:
            run.missing.append(
                f'no metrics by condition and distance: {type(error).__name__}: {error}'
            )
            whole = next(iter(parse_nuscenes_metrics(run.state.metrics).values()))
            scores = {'mAP': whole.mean_ap, 'NDS': whole.nds}
            run.measures.update({(WHOLE, name): value for name, value in scores.items()})
            return
        if len(subsets) > len(self.parts):
            self.parts = [
                {key: value for key, value in subset.items() if key != 'metrics'}
                for subset in subsets
            ]
        for subset in subsets:
            for name, value in subset['metrics'].items():
                run.measures[subset['name'], name] = value
        run.missing += differences_to_test(subsets[0]['metrics'], run.state.metrics)

    def _subsets(self, folder: Path) -> list[dict[str, Any]]:
        """Of the detections, by the official evaluation; kept in the run's folder."""
        detections, cache = folder / DETECTIONS, folder / SUBSETS_FILE
        stamp = f'{detections.stat().st_size} {detections.stat().st_mtime_ns}'
        try:
            kept = json.loads(cache.read_text())
            if kept['stamp'] == stamp:
                return kept['subsets']
        except (OSError, ValueError, TypeError, KeyError):
            pass
        config = Config.fromfile(folder / CONFIG_FILE, import_custom_modules=False)
        subsets = [asdict(subset) for subset in self._evaluate(config, detections)]
        content = json.dumps({'stamp': stamp, 'subsets': subsets})
        write_atomically(cache, content.encode())
        return json.loads(content)['subsets']

    def _evaluate(self, config: Config, detections: Path) -> list[Subset]:
        dataset: Any = config.test_dataloader.dataset
        while 'metainfo' not in dataset and 'dataset' in dataset:
            dataset = dataset.dataset
        metric = nuscenes_metric_configs(config.test_evaluator)[0]
        version, root = dataset.metainfo.version, metric.data_root
        if version not in EVALUATED_SPLITS:
            raise ValueError(f"version '{version}' has no validation split")
        if (root, version) not in self._tables:
            self._tables[root, version] = NuScenes(version, root, verbose=False)
        eval_version = metric.get('eval_version', 'detection_cvpr_2019')
        tables = self._tables[root, version]
        return SubsetEvaluation(tables, detections, version, eval_version).subsets()


def _read_failures(folder: Path, run: _Run) -> None:
    """Scores under sensor failures, their mean, and what the router does."""
    try:
        table = pd.read_csv(folder / FAILURES_FOLDER / 'robustness.csv')
    except (OSError, ValueError) as error:
        run.missing.append(f'no test under sensor failures: {error}')
        return
    for row in table.to_dict('records'):
        subset = WHOLE if row['failure'] == CLEAN else f'failure: {row["failure"]}'
        measured = {name: row.get(column, math.nan) for name, column in WATCHED.items()}
        if row['failure'] != CLEAN:
            measured.update(mAP=row['mAP'], NDS=row['NDS'])
        run.measures.update(
            {(subset, name): float(value) for name, value in measured.items() if value == value}
        )
    failed = table[table['failure'] != CLEAN]
    for metric in ('mAP', 'NDS'):
        run.measures[FAILURES, metric] = float(failed[metric].mean(skipna=False))


def differences_to_test(whole: Mapping[str, float], tested: Mapping[str, float]) -> list[str]:
    """Where the metrics of the whole are not those of tools/test.py.

    Args:
        whole: Metrics of this analysis.
        tested: The metric dict of tools/test.py: mAP and NDS in full, the rest to four digits.

    Returns:
        A sentence for each difference; empty as it should be.
    """
    scores = next(iter(parse_nuscenes_metrics(tested).values()), None)
    if scores is None:
        return ['the test has left no nuScenes metrics to compare with']
    expected = {'mAP': scores.mean_ap, 'NDS': scores.nds}
    return [
        f'{name} of the detections is {whole[name]}, but tools/test.py wrote {value}: the file '
        'is not the one that was tested'
        for name, value in expected.items()
        if whole[name] != value
    ]


def thinned(curve: pd.Series) -> pd.Series:
    """At most :data:`CURVE_POINTS` points of a curve, its last one among them."""
    step = max(1, -(-len(curve) // CURVE_POINTS))
    return curve.iloc[::-1].iloc[::step].iloc[::-1]

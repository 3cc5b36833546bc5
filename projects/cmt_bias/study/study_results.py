"""What the runs of a study gave, as tables that the report is made from."""

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
from mmengine.config import Config
from nuscenes import NuScenes

from ..atomic_file import write_atomically
from ..failures import CLEAN
from ..metrics.metric_configs import nuscenes_metric_configs
from ..metrics.nuscenes_metric_table import parse_nuscenes_metrics
from ..metrics.subset_evaluation import EVALUATED_SPLITS, WHOLE, SubsetEvaluation
from ..problem import Problem
from ..runs.data_check import innermost_datasets
from ..runs.preflight import ProblemsFound
from .seed_statistics import Estimate, compare, holm
from .study_config import Question, Study
from .study_run import CONFIG_FILE, DETECTIONS, FAILURES_FOLDER, TRAIN_FOLDER, read_state
from .training_curves import curve_measures, read_losses, read_scales, thinned

RECORD_FILE = 'record.json'
STUDY_FILE, RUNS_FILE, CURVES_FILE = 'study.json', 'runs.csv', 'curves.csv'
SUBSETS_FILE = 'subset_metrics.json'
FAILURES = 'failures'
FAILURE = 'failure: '
INAPPLICABLE = 'not applicable'  # status in robustness.csv of a sensor that a model has not
UNTESTED = 'no test under sensor failures'
SCORES = ['mAP', 'NDS']
WATCHED = {
    'lidar_weight': 'lidar trust',
    'camera_weight': 'camera trust',
    'fall_spoiled': 'trust fall, spoiled part',
    'fall_elsewhere': 'trust fall, elsewhere',
    'camera_attention': 'camera attention',
}
"""Columns of robustness.csv, and what their measures are called."""

RunTables = Mapping[tuple[str, int], Mapping[Any, Mapping[str, float]]]


def _frame(tables: RunTables, last_key: str) -> pd.DataFrame:
    """A table of the rows of every variant and seed by a third key."""
    rows = {(*run, key): row for run, table in tables.items() for key, row in table.items()}
    index = pd.MultiIndex.from_tuples(rows, names=['variant', 'seed', last_key])
    return pd.DataFrame([*rows.values()], index=index)


@dataclass
class StudyResults:
    """A study and what its runs gave; the first fields are those of :class:`.Study`.

    Attributes:
        values: Measures by variant, seed and subset. Subsets: 'whole' and the parts of the test;
            'clean', 'failure: <name>' and 'failures', their mean, of the robustness test.
        curves: 'loss' and 'scale (<entry>)' by variant, seed and iteration.
    """

    title: str
    variants: Mapping[str, str]
    reference: str
    seeds: tuple[int, ...]
    questions: tuple[Question, ...]
    command: str
    tested_failures: tuple[str, ...] | None = None  # asked of each run; an old record has none
    device: str = ''
    hours: float = 0.0  # wall-clock, of all runs together
    parts: list[dict[str, Any]] = field(default_factory=list)  # of the test: see Subset
    missing: list[str] = field(default_factory=list)  # what is not there, for the reader
    values: pd.DataFrame = field(default_factory=lambda: _frame({}, 'subset'))
    curves: pd.DataFrame = field(default_factory=lambda: _frame({}, 'iteration'))

    def table(self, subset: str, metric: str) -> pd.DataFrame:
        """A measure by seed (rows) and variant (columns)."""
        if metric not in self.values:
            return pd.DataFrame()
        column = self.values[metric].dropna()
        return column[column.index.get_level_values('subset') == subset].droplevel(2).unstack(0)

    def of(self, variant: str, subset: str, metric: str) -> pd.Series:
        """A measure of a variant by seed."""
        return self.table(subset, metric).get(variant, pd.Series(dtype=float)).dropna()

    def means(self, subset: str, metric: str) -> pd.Series:
        """The mean of a measure over seeds, by variant; NaN where it is not known."""
        return self.table(subset, metric).mean().reindex(list(self.variants)).astype(float)

    def compare(self, variant: str, against: str, subset: str, metric: str = 'mAP') -> Estimate:
        """The difference between two variants, see :func:`.seed_statistics.compare`."""
        return compare(self.table(subset, metric), variant, against)

    def judge(self, *comparisons: tuple[str, str, str, str]) -> list[Estimate]:
        """Differences, their p adjusted for being judged with all questions of the study.

        ``comparisons`` are the arguments of :meth:`compare`; without any, those of the questions.
        """
        asked = [(q.variant, q.against, q.subset, q.metric) for q in self.questions]
        family = {each: self.compare(*each) for each in dict.fromkeys([*comparisons, *asked])}
        adjusted = dict(zip(family, holm([e.p_value for e in family.values()]), strict=True))
        return [replace(family[c], p_value=adjusted[c]) for c in comparisons or asked]

    def subsets(self) -> list[str]:
        """All that mAP is known of: the whole, parts, the mean over failures, each failure."""
        scored = self.values['mAP'].dropna() if 'mAP' in self.values else self.values
        known = set(scored.index.get_level_values('subset'))
        parts = [WHOLE, *(part['name'] for part in self.parts), FAILURES]
        failures = sorted(name for name in known if name.startswith(FAILURE))
        return [name for name in dict.fromkeys([*parts, *failures]) if name in known]

    def failures(self) -> list[str]:
        """The subsets of single failures."""
        return [name for name in self.subsets() if name.startswith(FAILURE)]

    def save(self, folder: Path) -> None:
        """Write study.json, runs.csv and curves.csv."""
        for table, name in ((self.values, RUNS_FILE), (self.curves, CURVES_FILE)):
            write_atomically(folder / name, table.to_csv(float_format='%.5g').encode())
        self.save_record(folder / STUDY_FILE)

    def save_record(self, path: Path) -> None:
        """Write all but the tables."""
        content = asdict(self)
        del content['values'], content['curves']
        write_atomically(path, json.dumps(content, indent=1).encode())


@contextmanager
def _results_in(folder: Path) -> Iterator[None]:
    """Say of a folder that what is read from it is not there, or damaged."""
    try:
        yield
    except (OSError, ValueError, TypeError, KeyError) as error:
        what = f"'{folder}' has no readable results of a study: {error}"
        remedy = 'name the --work-dir of tools/run_study.py'
        raise ProblemsFound([Problem(what, remedy)]) from error


def read_record(path: Path) -> StudyResults:
    """What :meth:`StudyResults.save_record` has written; ProblemsFound where it is not readable.

    Nor is what a version has written in which a study had no questions.
    """
    with _results_in(path.parent):
        content = json.loads(path.read_text())
        if 'seeds' in content and 'questions' not in content:
            what = f"'{path}' is of a study made by an earlier version, which this one cannot read"
            remedy = 'analyze it with that version, or make the study anew in another --work-dir'
            raise ProblemsFound([Problem(what, remedy)])
        content['questions'] = tuple(Question(**question) for question in content['questions'])
        for key in ('seeds', 'tested_failures'):
            if content.get(key) is not None:
                content[key] = tuple(content[key])
        return StudyResults(**content)


def load_results(folder: Path) -> StudyResults:
    """What :meth:`StudyResults.save` has written; ProblemsFound where it is not readable."""
    results = read_record(folder / STUDY_FILE)
    # A variant may be called '1' or 'NA'.
    form: dict[str, Any] = dict(dtype={'variant': str}, keep_default_na=False, na_values=[''])
    with _results_in(folder):
        results.values, results.curves = (
            pd.read_csv(folder / name, **form).set_index(['variant', 'seed', third])
            for name, third in ((RUNS_FILE, 'subset'), (CURVES_FILE, 'iteration'))
        )
    return results


def write_record(work_dir: Path, study: Study, command: str) -> None:
    """Note what a study is in its work directory, before its first run."""
    what = study.title, study.variants, study.reference, study.seeds, study.questions
    tested_failures = (*study.failures, *study.failure_options)
    StudyResults(*what, command, tested_failures).save_record(work_dir / RECORD_FILE)


def work_dir_record(work_dir: Path) -> StudyResults:
    """What :func:`write_record` has written, also where earlier versions did.

    ProblemsFound if the folder is not that of a study.
    """
    path = work_dir / RECORD_FILE
    return read_record(path if path.is_file() else work_dir / STUDY_FILE)


def run_folder(work_dir: Path, variant: str, seed: int) -> Path:
    """Where a run is."""
    return work_dir / variant / f'seed_{seed}'


def collect_results(work_dir: Path) -> StudyResults:
    """Read all runs of a study, as far as they are there; see :func:`work_dir_record`.

    Metrics by condition and distance are computed once for each run and kept in its folder, so
    that a study can be looked at while it runs.
    """
    results = work_dir_record(work_dir)
    place = f'--work-dir work_dirs/{work_dir.resolve().name}'  # wherever it was on that machine
    results.command = re.sub(r'--work-dir \S+', place, results.command)
    results.command = re.sub(r'\S*/tools/run_study', 'tools/run_study', results.command)
    runs = {
        (variant, seed): _Run(run_folder(work_dir, variant, seed), results.tested_failures)
        for variant, seed in product(results.variants, results.seeds)
    }
    # The mean of each run is over the same failures, also where variants have other sensors.
    failures = [set(run.failed.index) for run in runs.values() if len(run.failed)]
    common = set[str]().union(*failures).intersection(*failures)
    missing: dict[str, dict[str, str]] = defaultdict(lambda: defaultdict(str))
    for (variant, seed), run in runs.items():
        run.average_failures(common)
        for problem in run.missing:
            missing[problem][variant] += f' {seed}'
    if not any(FAILURES in run.measures for run in runs.values()):
        missing.pop(UNTESTED, None)  # the study has no failures, or is not so far
    results.missing = [
        f'{problem}: {", ".join(variant + seeds for variant, seeds in affected.items())}'
        for problem, affected in missing.items()
    ]
    states = [run.state for run in runs.values() if run.state]
    results.hours = sum(sum(state.seconds.values()) for state in states) / 3600
    results.device = next((state.device for state in reversed(states) if state.device), '')
    results.parts = max((run.parts for run in runs.values()), key=len)
    results.values = _frame({key: run.measures for key, run in runs.items()}, 'subset')
    results.curves = _frame({key: run.curves for key, run in runs.items()}, 'iteration')
    return results


class _Run:
    """What is there of a run, tested under failures if ``asked``; ``missing`` is what is not.

    ``measures`` are by subset, ``failed`` has those under each failure, ``parts`` are of the test.
    """

    def __init__(self, folder: Path, asked: tuple[str, ...] | None) -> None:
        self.folder, self.state = folder, read_state(folder)
        self.measures: dict[str, dict[str, float]] = defaultdict(dict)
        self.curves: dict[Any, dict[str, float]] = {}
        self.parts: list[dict[str, Any]] = []
        self.failed = pd.DataFrame(columns=SCORES)
        self.missing: list[str] = []
        if self.state is None:
            self.missing.append('not started')
            return
        if self.state.failure:
            self.missing.append(f'failed, {self.state.failure}')
        elif not self.state.metrics:
            self.missing.append('not finished')
        if self.state.checkpoint:  # an unfinished training has no final values
            self._read_training()
        if self.state.metrics:
            self._read_subsets(self.state.metrics)
            if asked != ():  # else what is there is of another study
                self._read_failures(self.state.failures_tested, asked)

    def _read_training(self) -> None:
        losses, scales = (read(self.folder / TRAIN_FOLDER) for read in (read_losses, read_scales))
        self.measures[WHOLE].update(curve_measures(losses, scales))
        curves = {'loss': losses, **{f'scale ({name})': scales[name] for name in scales}}
        thin = {name: thinned(curve) for name, curve in curves.items() if len(curve)}
        self.curves = pd.DataFrame(thin).to_dict('index')
        if losses.empty:
            self.missing.append('no loss in the log of the training')

    def _read_subsets(self, metrics: Mapping[str, float]) -> None:
        """Metrics by subset; without the data set those of the whole, as the test wrote them."""
        tested = next(iter(parse_nuscenes_metrics(metrics).values()), None)
        if tested is None:
            self.missing.append('no nuScenes metrics of the test')
            return
        scores = dict(zip(SCORES, (tested.mean_ap, tested.nds), strict=True))
        try:
            self.parts = _subset_metrics(self.folder)
        except FileNotFoundError as error:
            self.missing.append(f'no metrics by condition and distance, {error}')
            self.measures[WHOLE].update(scores)
        for part in self.parts:
            self.measures[part['name']].update(part.pop('metrics'))
        for name, value in scores.items():
            if self.measures[WHOLE][name] != value:
                self.missing.append(
                    f'{name} of the detections is {self.measures[WHOLE][name]}, but tools/test.py '
                    f'wrote {value} (the file is not the one that was tested)'
                )

    def _read_failures(self, tested: Collection[str], asked: tuple[str, ...] | None) -> None:
        """Scores under sensor failures, and what the router does."""
        if asked is not None and tested != asked:
            other = 'tested under other failures, or with other settings'
            self.missing.append(other if tested else UNTESTED)
            return
        try:
            table = pd.read_csv(self.folder / FAILURES_FOLDER / 'robustness.csv')
        except (OSError, ValueError):
            self.missing.append(UNTESTED)
            return
        table = table[table['status'] != INAPPLICABLE].set_index('failure')
        table = table.rename(columns=WATCHED).reindex(columns=[*SCORES, *WATCHED.values()])
        table.index = [CLEAN if name == CLEAN else f'{FAILURE}{name}' for name in table.index]
        self.measures.update(table.to_dict('index'))
        self.failed = table.drop(index=CLEAN, errors='ignore')

    def average_failures(self, common: Collection[str]) -> None:
        """Measure the mean over those that all runs have, unknown where a score is."""
        shared = self.failed.index.isin(common)
        unscored = self.failed[SCORES].isna().any(axis=1)
        others = 'the mean over failures leaves out what other runs do not have,'
        for what, affected in (('no score under', unscored), (others, ~shared)):
            if affected.any():
                names = self.failed.index[affected].str.removeprefix(FAILURE)
                self.missing.append(f'{what} {", ".join(names)}')
        if shared.any():
            failed = self.failed[shared]
            scores = failed[SCORES].mean(skipna=False)
            self.measures[FAILURES] = {**failed.mean(), **scores}


_load_tables = lru_cache(NuScenes)  # once for all runs


def _subset_metrics(folder: Path) -> list[dict[str, Any]]:
    """Of a run's detections, by the official evaluation; kept in the run's folder.

    Raises:
        FileNotFoundError: Without detections, or data to compare them with.
    """
    detections, cache = folder / DETECTIONS, folder / SUBSETS_FILE
    if not detections.is_file():
        raise FileNotFoundError('its detections are gone')
    stamp = f'{detections.stat().st_size} {detections.stat().st_mtime_ns}'
    with suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(cache.read_text())
        if kept['stamp'] == stamp:
            return kept['subsets']
    config = Config.fromfile(folder / CONFIG_FILE, import_custom_modules=False)
    metric = nuscenes_metric_configs(config.test_evaluator)[0]
    version = innermost_datasets(config.test_dataloader.dataset)[0]['metainfo']['version']
    settings = metric.get('eval_version') or 'detection_cvpr_2019'
    if version not in EVALUATED_SPLITS:
        raise FileNotFoundError(f"version '{version}' has no validation split")
    if not Path(metric.data_root, version).is_dir():
        raise FileNotFoundError(f"the tables '{Path(metric.data_root, version)}' are not there")
    tables = _load_tables(version, metric.data_root, verbose=False)
    evaluation = SubsetEvaluation(tables, detections, version, settings)
    subsets = [asdict(subset) for subset in evaluation.subsets()]
    write_atomically(cache, json.dumps(dict(stamp=stamp, subsets=subsets)).encode())
    return subsets

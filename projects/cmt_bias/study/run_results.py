"""Everything that the analysis reads of one run."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from mmengine.config import Config
from nuscenes import NuScenes

from ..atomic_file import write_atomically
from ..metrics.metric_configs import nuscenes_metric_configs
from ..metrics.nuscenes_metric_table import parse_nuscenes_metrics
from ..metrics.subset_evaluation import EVALUATED_SPLITS, WHOLE, Subset, SubsetEvaluation
from .effective_config import load_plain_config
from .run_state import DETECTIONS, RunState, read_state
from .study_run import TRAIN_FOLDER
from .training_curves import loss_measures, read_losses, read_scales, scale_measures

CACHE_FILE = 'subset_metrics.json'


@dataclass
class RunResults:
    """What a run gave, as far as it is there.

    Attributes:
        variant: Its variant.
        seed: Its seed.
        losses: Loss by iteration; may be empty.
        scales: Bias scale by iteration; may be empty.
        subsets: The metrics of the test.
        state: How far it is; None where it has not begun.
        problems: What is missing, for the reader.
    """

    variant: str
    seed: int
    losses: pd.Series = field(default_factory=lambda: pd.Series(dtype=float))
    scales: pd.DataFrame = field(default_factory=pd.DataFrame)
    subsets: list[Subset] = field(default_factory=list)
    state: RunState | None = None
    problems: list[str] = field(default_factory=list)

    @property
    def is_tested(self) -> bool:
        """Whether it was trained and tested to the end."""
        return self.state is not None and bool(self.state.metrics)

    def rows(self) -> list[tuple[str, int, str, str, float]]:
        """variant, seed, subset, metric and value; curves of unfinished trainings left out."""
        measures: dict[tuple[str, str], float] = {}
        if self.state is not None and self.state.checkpoint:
            if not self.scales.empty:
                for name, value in scale_measures(self.scales).items():
                    measures[WHOLE, name] = value
            for name, value in loss_measures(self.losses).items():
                measures[WHOLE, name] = value
        for subset in self.subsets:
            for name, value in subset.metrics.items():
                measures[subset.name, name] = value
        return [
            (self.variant, self.seed, subset, metric, value)
            for (subset, metric), value in measures.items()
        ]


class RunReader:
    """Reads runs; the tables of nuScenes are loaded once for all.

    Args:
        use_cache: Take the metrics by subset from the run's folder where they are there already.
    """

    def __init__(self, use_cache: bool = True) -> None:
        self._use_cache = use_cache
        self._tables: dict[tuple[str, str], NuScenes] = {}

    def read(self, folder: Path, variant: str, seed: int) -> RunResults:
        """Read what is there, and note what is not."""
        results = RunResults(variant, seed, state=read_state(folder))
        state = results.state
        if state is None:
            results.problems.append('not started')
            return results
        if state.failure:
            results.problems.append(f'failed: {state.failure}')
        elif not state.checkpoint:
            results.problems.append('training not finished')
        elif not state.metrics:
            results.problems.append('trained, not tested')
        results.losses = read_losses(folder / TRAIN_FOLDER)
        if results.losses.empty and state.checkpoint:
            results.problems.append(f"no loss in '{folder / TRAIN_FOLDER}/*/vis_data'")
        config = _read_config(folder, results)
        if config is not None:
            self._read_scales(folder, config, results)
            if state.metrics:
                self._read_subsets(folder, config, results)
        return results

    def _read_scales(self, folder: Path, config: Config, results: RunResults) -> None:
        head = config.model.get('pts_bbox_head') or {}
        if 'attention_bias_config' not in head:
            return
        try:
            results.scales = read_scales(folder / TRAIN_FOLDER)
        except FileNotFoundError as error:
            results.problems.append(f"no history of the scale: '{error.filename}' is missing")
        except ValueError as error:
            results.problems.append(f'no history of the scale: {error}')

    def _read_subsets(self, folder: Path, config: Config, results: RunResults) -> None:
        """Metrics by subset; without the data set those of the whole, as the test wrote them."""
        assert results.state is not None
        detections = folder / DETECTIONS
        try:
            results.subsets = self._evaluate(folder, detections, config)
        except (OSError, AssertionError, KeyError, ValueError) as error:
            results.problems.append(
                f'no metrics by condition and distance: {type(error).__name__}: {error}'
            )
            results.subsets = _as_tested(results.state.metrics)
            return
        for text in differences_to_test(results.subsets[0].metrics, results.state.metrics):
            results.problems.append(text)

    def _evaluate(self, folder: Path, detections: Path, config: Config) -> list[Subset]:
        file = detections.stat()
        stamp = f'{file.st_size} {file.st_mtime_ns}'
        cache = folder / CACHE_FILE
        kept = _read_cache(cache, stamp) if self._use_cache else None
        if kept is not None:
            return kept
        version, root, eval_version = _data_of(config)
        if version not in EVALUATED_SPLITS:
            raise ValueError(f"version '{version}' has no validation split")
        if (root, version) not in self._tables:
            self._tables[root, version] = NuScenes(version, root, verbose=False)
        tables = self._tables[root, version]
        subsets = SubsetEvaluation(tables, detections, version, eval_version).subsets()
        content = {'stamp': stamp, 'subsets': [asdict(subset) for subset in subsets]}
        write_atomically(cache, json.dumps(content, indent=2).encode())
        return subsets


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
    found = {name: whole[name] for name in expected}
    for name, value in scores.mean_errors.items():
        expected[name], found[name] = value, float(f'{whole[name]:.4f}')
    return [
        f'{name} of the detections is {found[name]}, but tools/test.py wrote {expected[name]}: '
        'the file is not the one that was tested'
        for name in expected
        if found[name] != expected[name]
    ]


def _as_tested(metrics: Mapping[str, float]) -> list[Subset]:
    """The whole alone, from what tools/test.py wrote; counts are not known."""
    for scores in parse_nuscenes_metrics(metrics).values():
        classes = {f'AP {name}': value for name, value in scores.class_ap.items()}
        values = {'mAP': scores.mean_ap, 'NDS': scores.nds, **scores.mean_errors, **classes}
        return [Subset(WHOLE, 'whole', 0, 0, (), values)]
    return []


def _read_config(folder: Path, results: RunResults) -> Config | None:
    path = folder / 'config.py'
    try:
        return load_plain_config(str(path))
    except (OSError, SyntaxError) as error:
        results.problems.append(f"'{path}' cannot be read: {error}")
        return None


def _data_of(config: Config) -> tuple[str, str, str]:
    """Version, root and official settings of the data that a config tests on."""
    dataset: Any = config.test_dataloader.dataset
    while 'metainfo' not in dataset and 'dataset' in dataset:
        dataset = dataset.dataset
    metric = nuscenes_metric_configs(config.test_evaluator)[0]
    eval_version = metric.get('eval_version', 'detection_cvpr_2019')
    return dataset.metainfo.version, metric.data_root, eval_version


def _read_cache(path: Path, stamp: str) -> list[Subset] | None:
    try:
        content = json.loads(path.read_text())
        if content['stamp'] != stamp:
            return None
        return [
            Subset(**{**subset, 'absent_classes': tuple(subset['absent_classes'])})
            for subset in content['subsets']
        ]
    except (OSError, ValueError, TypeError, KeyError):
        return None

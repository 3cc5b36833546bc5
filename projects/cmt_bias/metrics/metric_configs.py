"""The metrics that a config evaluates with, be it one or several."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..config_type import type_name

NUSCENES_METRIC = 'NuScenesMetric'


def metric_configs(evaluator: Mapping | Sequence[Mapping] | None) -> list[Any]:
    """The configs, not copies, of an evaluator's metrics; what is built already is no config."""
    several = evaluator if isinstance(evaluator, Sequence) else [evaluator]
    return [metric for metric in several if isinstance(metric, Mapping)]


def nuscenes_metric_configs(evaluator: Mapping | Sequence[Mapping] | None) -> list[Any]:
    """Those of :func:`metric_configs` that are the official nuScenes evaluation."""
    return [m for m in metric_configs(evaluator) if type_name(m) == NUSCENES_METRIC]

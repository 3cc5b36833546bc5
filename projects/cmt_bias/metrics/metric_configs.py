"""The metrics that a config evaluates with, be it one or several."""

from collections.abc import Mapping, Sequence
from typing import Any

NUSCENES_METRIC = 'NuScenesMetric'


def metric_configs(evaluator: Mapping | Sequence[Mapping] | None) -> list[Any]:
    """The configs of an evaluator's metrics.

    Args:
        evaluator: ``test_evaluator`` or ``val_evaluator`` of a config: a metric, several or None.

    Returns:
        The metrics' own configs, not copies.
    """
    if evaluator is None:
        return []
    return [evaluator] if isinstance(evaluator, Mapping) else list(evaluator)


def nuscenes_metric_configs(evaluator: Mapping | Sequence[Mapping] | None) -> list[Any]:
    """Those of :func:`metric_configs` that are the official nuScenes evaluation."""
    return [m for m in metric_configs(evaluator) if m.get('type') == NUSCENES_METRIC]

"""The metric table, from a metric dict with the keys that mmdet3d's NuScenesMetric writes."""

import math

import pytest

from cmt_bias.metrics.nuscenes_metric_table import nuscenes_metric_table, parse_nuscenes_metrics

PREFIX = 'NuScenes metric/pred_instances_3d_NuScenes/'


def metrics_of(**classes: tuple[list[float], list[float]]) -> dict[str, float]:
    """Metric dict from, for each class, the AP at four distances and the five errors."""
    errors = ('trans_err', 'scale_err', 'orient_err', 'vel_err', 'attr_err')
    metrics = {}
    for name, (precisions, values) in classes.items():
        for distance, precision in zip(('0.5', '1.0', '2.0', '4.0'), precisions, strict=True):
            metrics[f'{PREFIX}{name}_AP_dist_{distance}'] = precision
        for error, value in zip(errors, values, strict=True):
            metrics[f'{PREFIX}{name}_{error}'] = value
    for name, value in zip(('mATE', 'mASE', 'mAOE', 'mAVE', 'mAAE'), (5, 4, 3, 2, 1), strict=True):
        metrics[f'{PREFIX}{name}'] = value / 10
    return metrics | {f'{PREFIX}NDS': 0.4321, f'{PREFIX}mAP': 0.25}


METRICS = metrics_of(
    construction_vehicle=([0.1, 0.2, 0.4, 0.5], [0.91, 0.92, 0.93, 0.94, 0.95]),
    traffic_cone=([0.0, 0.0, 0.0, 0.8], [0.31, 0.32, math.nan, math.nan, math.nan]),
)


def test_metrics_are_sorted_by_class_and_kind():
    scores = parse_nuscenes_metrics(METRICS)['pred_instances_3d']

    assert (scores.nds, scores.mean_ap) == (0.4321, 0.25)
    assert scores.class_ap == pytest.approx({'construction_vehicle': 0.3, 'traffic_cone': 0.2})
    assert scores.mean_errors == dict(mATE=0.5, mASE=0.4, mAOE=0.3, mAVE=0.2, mAAE=0.1)
    assert scores.class_errors['construction_vehicle'] == dict(
        ATE=0.91, ASE=0.92, AOE=0.93, AVE=0.94, AAE=0.95
    )
    assert math.isnan(scores.class_errors['traffic_cone']['AOE'])


def test_table_has_a_row_for_each_class_the_means_and_nds():
    text = nuscenes_metric_table(parse_nuscenes_metrics(METRICS)['pred_instances_3d'])
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}

    assert rows['class'] == ['AP', 'ATE', 'ASE', 'AOE', 'AVE', 'AAE']
    assert rows['construction_vehicle'] == ['0.300', '0.910', '0.920', '0.930', '0.940', '0.950']
    assert rows['traffic_cone'] == ['0.200', '0.310', '0.320', '-', '-', '-']
    assert rows['mean'] == ['0.250', '0.500', '0.400', '0.300', '0.200', '0.100']
    assert text.splitlines()[-1] == 'mAP 0.2500   NDS 0.4321'
    assert max(map(len, text.splitlines())) <= 99


def test_other_metrics_give_no_table():
    assert parse_nuscenes_metrics({'coco/bbox_mAP': 0.3}) == {}

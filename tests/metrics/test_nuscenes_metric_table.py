"""The metric table, from a metric dict with the keys that mmdet3d's NuScenesMetric writes."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nuscenes.eval.detection.config import config_factory
from nuscenes.eval.detection.constants import DETECTION_NAMES, TP_METRICS
from nuscenes.eval.detection.data_classes import DetectionMetrics

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
    assert scores.mean_errors.to_dict() == dict(mATE=0.5, mASE=0.4, mAOE=0.3, mAVE=0.2, mAAE=0.1)
    assert list(scores.classes.index) == ['construction_vehicle', 'traffic_cone']
    assert scores.classes['AP'].tolist() == pytest.approx([0.3, 0.2])
    errors = dict(ATE=0.91, ASE=0.92, AOE=0.93, AVE=0.94, AAE=0.95)
    assert scores.classes.loc['construction_vehicle', [*errors]].to_dict() == errors
    assert math.isnan(scores.classes.loc['traffic_cone', 'AOE'])


def test_table_has_a_row_for_each_class_the_means_and_nds():
    text = nuscenes_metric_table(parse_nuscenes_metrics(METRICS)['pred_instances_3d'])
    rows = {line.split()[0]: line.split()[1:] for line in text.splitlines() if line.strip()}

    assert rows['class'] == ['AP', 'ATE', 'ASE', 'AOE', 'AVE', 'AAE']
    assert rows['construction_vehicle'] == ['0.300', '0.910', '0.920', '0.930', '0.940', '0.950']
    assert rows['traffic_cone'] == ['0.200', '0.310', '0.320', '-', '-', '-']
    means = [line.split() for line in text.splitlines() if line.split()[:1] == ['mean']]
    assert means == [
        ['mean', 'of', 'all', '10', '0.250', '0.500', '0.400', '0.300', '0.200', '0.100'],
        ['mean', 'of', '2', '0.250', '0.610', '0.620', '0.930', '0.940', '0.950'],
    ]
    assert max(map(len, text.splitlines())) <= 99


def test_metrics_without_those_of_classes_give_a_plain_table():
    scores = parse_nuscenes_metrics(metrics_of())['pred_instances_3d']
    assert scores.absent_classes == []
    rows = [line.split() for line in nuscenes_metric_table(scores).splitlines()]
    assert ['mean', '0.250', '0.500', '0.400', '0.300', '0.200', '0.100'] in rows
    assert rows[-1] == ['mAP', '0.2500', 'NDS', '0.4321']


def test_other_metrics_give_no_table():
    assert parse_nuscenes_metrics({'coco/bbox_mAP': 0.3}) == {}


def official(values: dict[str, list[float]], undefined: set[tuple[str, str]]) -> DetectionMetrics:
    """The devkit's own means; classes that are not among ``values`` were never found."""
    metrics = DetectionMetrics(config_factory('detection_cvpr_2019'))
    for name in DETECTION_NAMES:
        precision, *errors = values.get(name, [0.0] + [1.0] * 5)
        for distance in metrics.cfg.dist_ths:
            metrics.add_label_ap(name, distance, precision)
        for metric, error in zip(TP_METRICS, errors, strict=True):
            metrics.add_label_tp(name, metric, math.nan if (name, metric) in undefined else error)
    return metrics


UNDEFINED = {
    ('traffic_cone', 'orient_err'),
    ('traffic_cone', 'vel_err'),
    ('traffic_cone', 'attr_err'),
    ('barrier', 'vel_err'),
    ('barrier', 'attr_err'),
}
numbers = st.lists(st.floats(0, 1), min_size=6, max_size=6)


@given(values=st.fixed_dictionaries(dict.fromkeys(DETECTION_NAMES, numbers)))
def test_means_over_own_classes_are_the_official_ones_of_a_model_that_has_all(values):
    reference = official(values, UNDEFINED)
    classes = {
        name: (
            [precision] * 4,
            [
                math.nan if (name, metric) in UNDEFINED else error
                for metric, error in zip(TP_METRICS, errors, strict=True)
            ],
        )
        for name, (precision, *errors) in values.items()
    }
    scores = parse_nuscenes_metrics(metrics_of(**classes))['pred_instances_3d']
    assert scores.absent_classes == []
    own = scores.of_own_classes()
    assert own.mean_ap == pytest.approx(reference.mean_ap)
    assert own.nds == pytest.approx(reference.nd_score)
    for (_, name), metric in zip(
        (('ATE', 'mATE'), ('ASE', 'mASE'), ('AOE', 'mAOE'), ('AVE', 'mAVE'), ('AAE', 'mAAE')),
        TP_METRICS,
        strict=True,
    ):
        assert own.mean_errors[name] == pytest.approx(reference.tp_errors[metric])


def test_a_perfect_model_of_three_classes_is_told_beside_the_mean_over_ten():
    """Its official mAP is 0.3: the other seven count as never found."""
    perfect = dict.fromkeys(('car', 'bus', 'truck'), [1.0] + [0.0] * 5)
    reference = official(perfect, UNDEFINED)
    metrics = metrics_of(**{name: ([1.0] * 4, [0.0] * 5) for name in perfect})
    metrics[f'{PREFIX}mAP'], metrics[f'{PREFIX}NDS'] = reference.mean_ap, reference.nd_score
    text = ' '.join(
        nuscenes_metric_table(parse_nuscenes_metrics(metrics)['pred_instances_3d']).split()
    )
    assert reference.mean_ap == pytest.approx(0.3)
    assert 'mAP 0.3000 and NDS' in text
    assert 'means over all 10 classes of nuScenes' in text
    assert 'Over its own 3 classes: mAP 1.0000 NDS 1.0000' in text
    assert 'pedestrian' in text

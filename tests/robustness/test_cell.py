"""A cell's test leaves the files of other tests alone."""

from mmengine.config import Config

from cmt_bias.robustness import keep_no_detections


def test_detections_of_a_finished_run_are_not_overwritten():
    metric = dict(type='NuScenesMetric', jsonfile_prefix='work_dirs/study/run/detections')
    for evaluator in (dict(metric), [dict(metric), dict(type='Other')]):
        cfg = Config(dict(test_evaluator=evaluator))
        keep_no_detections(cfg)
        kept = cfg.test_evaluator if isinstance(evaluator, dict) else cfg.test_evaluator[0]
        assert kept == dict(type='NuScenesMetric')

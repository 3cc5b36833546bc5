"""Test a model under several bias scales in one pass over the data."""

import copy
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from mmdet3d.evaluation import NuScenesMetric
from mmdet3d.structures import Det3DDataSample
from mmengine.config import ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.registry import LOOPS
from mmengine.runner import Runner, TestLoop
from mmengine.runner.amp import autocast
from nuscenes import NuScenes
from torch import nn

from ..bias.head_lookup import BiasedHead, biased_heads
from ..bias.scale import BiasScale
from ..cmt.detector import CmtDetector
from ..metrics.metric_configs import NUSCENES_METRIC, nuscenes_metric_configs
from ..metrics.subset_evaluation import EVALUATED_SPLITS, Subset, SubsetEvaluation
from ..problem import Problem
from ..runs.preflight import ProblemsFound, stop_on
from ..unwrapping import unwrapped
from .study_config import keep_detections
from .study_run import DETECTIONS

LEARNED = None
"""Stands for the scale of the checkpoint among the scales of a sweep."""

Scale = float | None


def find_swept_head(model: nn.Module) -> BiasedHead:
    """The head whose scale is swept.

    Raises:
        ProblemsFound: If the model is no CMT with an attention bias.
    """
    heads = biased_heads(model)
    names = [head.name for head in heads]
    if isinstance(unwrapped(model), CmtDetector) and names == ['pts_bbox_head']:
        return heads[0]
    what = 'the model has no attention bias in pts_bbox_head, so there is no scale to sweep'
    remedy = (
        "give a config of configs/cmt_bias: model.type='CmtDetector' with "
        "pts_bbox_head=dict(type='AttentionBiasCmtHead', attention_bias_config=dict(...), ...)"
    )
    raise ProblemsFound([Problem(what, remedy)])


@contextmanager
def scale_override(generator: BiasScale, scale: float | None) -> Iterator[None]:
    """Within the context every entry of the scale in effect is this value.

    It is in logits, for all layers and modalities, and may lie beyond the range of the scale; None
    changes nothing. The scale itself stays as it is.
    """
    if scale is not None:  # an attribute of the instance, before the method of its class
        overridden = torch.full_like(generator.bias_scale, scale)
        vars(generator)['scale_in_effect'] = lambda: overridden
    try:
        yield
    finally:
        vars(generator).pop('scale_in_effect', None)


def predictions_by_scale(
    model: CmtDetector, data: Mapping[str, Any], scales: Sequence[Scale]
) -> Iterator[tuple[Scale, list[Det3DDataSample]]]:
    """Detect with each scale; all that does not depend on it is computed once.

    ``model`` is in evaluation mode, ``data`` a batch as the data loader gives it. Yields each
    scale and the samples with its ``pred_instances_3d``; they are the same sample objects each
    time, so use them before the next.
    """
    head = model.pts_bbox_head
    generator = find_swept_head(model).generator
    data = model.data_preprocessor(data, training=False)
    samples = data['data_samples']
    metas = [sample.metainfo for sample in samples]
    img_feats, pts_feats = model.extract_feat(data['inputs'], metas)
    inputs = head.encode(pts_feats, img_feats, metas)
    for scale in scales:
        with scale_override(generator, scale):
            outputs = head.decode(inputs)
        results = head.predict_by_feat(outputs, metas)
        yield scale, model.add_pred_to_datasample(samples, results)


@LOOPS.register_module()
class ScaleSweepLoop(TestLoop):
    """mmengine's test loop, which tests overridden scales beside the learned one.

    Metrics, outputs and hooks are those of the learned scale, as without a sweep. One process.
    ``scales`` are the values to test, in logits; ``evaluator`` is a config with a
    ``NuScenesMetric``; the rest is as in mmengine.

    Attributes:
        learned: The scale in effect that the model came with, by name of its entry, in logits.
        parts: After the test, for each scale the metrics of the whole, of each condition, and of
            their halves.

    Raises:
        ProblemsFound: If there is no nuScenes metric, or no annotations of the split.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        evaluator: Any,
        scales: Sequence[float],
        fp16: bool = False,
    ) -> None:
        if not nuscenes_metric_configs(evaluator):
            what = f'test_evaluator has no {NUSCENES_METRIC}'
            stop_on([Problem(what, 'a sweep compares nuScenes metrics: add it')])
        self._temporary = tempfile.TemporaryDirectory()
        self._folder = Path(self._temporary.name)
        super().__init__(runner, dataloader, self._keeping(evaluator, LEARNED), fp16)
        found = (m for m in self.evaluator.metrics if isinstance(m, NuScenesMetric))
        self._metric: Any = next(found)
        self._version = version = self.evaluator.dataset_meta['version']
        problems = []
        if version not in EVALUATED_SPLITS:
            what = f"test_dataloader.dataset.metainfo.version='{version}' has no annotated split"
            remedy = f'test on the validation split of one of {", ".join(EVALUATED_SPLITS)}'
            problems.append(Problem(what, remedy))
        if self._metric.format_only:
            what = 'test_evaluator.format_only=True leaves nothing to compare'
            remedy = 'give --cfg-options test_evaluator.format_only=False'
            problems.append(Problem(what, remedy))
        stop_on(problems)
        # The learned scale comes last: its predictions stay in the samples for the hooks.
        self._evaluators: dict[Scale, Evaluator] = {
            **{scale: runner.build_evaluator(self._keeping(evaluator, scale)) for scale in scales},
            LEARNED: self.evaluator,
        }
        for each in self._evaluators.values():
            each.dataset_meta = self.evaluator.dataset_meta
        self.learned: dict[str, float] = {}
        self.parts: dict[Scale, list[Subset]] = {}

    def _keeping(self, evaluator: Any, scale: Scale) -> Any:
        """A copy of the evaluator's config that leaves the detections of a scale in its folder.

        What they are worth is found out for the learned scale alone, as without a sweep.
        """
        cfg = ConfigDict(test_evaluator=copy.deepcopy(evaluator))
        keep_detections(cfg, self._folder / str(scale) / DETECTIONS.parts[0])
        if scale is not LEARNED:
            nuscenes_metric_configs(cfg.test_evaluator)[0]['format_only'] = True
        return cfg.test_evaluator

    def run(self) -> dict:
        """Test; returns the metrics of the learned scale."""
        with self._temporary:
            metrics = super().run()
            self._evaluate()
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Test one batch with every scale."""
        self.runner.call_hook('before_test_iter', batch_idx=idx, data_batch=data_batch)
        model = cast(CmtDetector, unwrapped(self.runner.model))
        if idx == 0:  # an averaged model has its own scale, and only during the test
            generator = find_swept_head(model).generator
            values = generator.scale_in_effect().flatten().tolist()
            self.learned = dict(zip(generator.scale_names(), values, strict=True))
        with autocast(enabled=self.fp16):
            for scale, outputs in predictions_by_scale(model, data_batch, [*self._evaluators]):
                self._evaluators[scale].process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook(
            'after_test_iter', batch_idx=idx, data_batch=data_batch, outputs=outputs
        )

    def _evaluate(self) -> None:
        """The official metrics of each scale's detections."""
        version, settings = self._version, self._metric.eval_version
        tables = NuScenes(version, self._metric.data_root, verbose=False)
        for scale, evaluator in self._evaluators.items():
            if scale is not LEARNED:
                evaluator.evaluate(len(self.dataloader.dataset))
            detections = self._folder / str(scale) / DETECTIONS
            evaluation = SubsetEvaluation(tables, detections, version, settings)
            self.parts[scale] = evaluation.by_condition() + evaluation.halves_by_condition()
            whole = self.parts[scale][0].metrics
            self.runner.logger.info(
                f'scale {"learned" if scale is LEARNED else scale}: NDS {whole["NDS"]:.4f} '
                f'mAP {whole["mAP"]:.4f}, {len(self.parts)} of {len(self._evaluators)} evaluated'
            )

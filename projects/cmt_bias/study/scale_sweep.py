"""Test a model under several bias scales in one pass over the data, and report what they give."""

import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from mmdet3d.evaluation import NuScenesMetric
from mmdet3d.structures import Det3DDataSample
from mmengine.evaluator import Evaluator
from mmengine.registry import LOOPS
from mmengine.runner import Runner, TestLoop
from mmengine.runner.amp import autocast
from nuscenes import NuScenes
from torch import nn

from ..atomic_file import save_figure, write_atomically
from ..bias.head_lookup import BiasedHead, biased_heads
from ..bias.scale import BiasScale
from ..cmt.detector import CmtDetector
from ..metrics.metric_configs import NUSCENES_METRIC, nuscenes_metric_configs
from ..metrics.subset_evaluation import EVALUATED_SPLITS, HALVES, Subset, SubsetEvaluation
from ..problem import Problem
from ..runs.preflight import ProblemsFound, stop_on
from ..unwrapping import unwrapped
from .study_run import DETECTIONS

TABLE, PLOT, REPORT = 'sweep_scale.csv', 'sweep_scale.png', 'sweep_scale.md'
SCORES = ('NDS', 'mAP')
OVERRIDE, LEARNED_POINT = 'override', 'learned'
LEARNED = None
"""Stands for the scale of the checkpoint among the scales of a sweep."""

Scale = float | None

READING = f"""
- The override sets every entry of the scale to the same value, beyond the model's own range too.
  The row 'learned' is the model as it is, and its scores are those of tools/test.py.
- The best of several noisy scores is at least as good as the learned scale by construction, so its
  gain is too high an estimate. '(edge)' marks the lowest or highest value tested.
- 'Best in halves' splits the scenes of a condition in two: where the halves differ, these frames
  do not settle it. Frames of one scene are much alike.
- This is one training, made with its own scale, which favours values near it. Before believing an
  order of conditions, sweep several seeds.
- A class without objects in a condition counts there with AP 0: compare scales within a condition.
- {TABLE} holds all scores, errors and APs of the classes by scale and condition.
"""


def find_swept_head(model: nn.Module) -> BiasedHead:
    """The head whose scale is swept; ProblemsFound if it is no CMT with an attention bias."""
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
def scale_override(generator: BiasScale, scale: Scale) -> Iterator[None]:
    """Within the context every entry of the scale in effect is this value.

    It is in logits, for all layers and modalities, and may lie beyond the range of the scale; None
    changes nothing. The scale itself stays as it is.
    """
    if scale is not LEARNED:  # an attribute of the instance, before the method of its class
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


def _nuscenes_metric(evaluator: Evaluator) -> Any:
    return next(metric for metric in evaluator.metrics if isinstance(metric, NuScenesMetric))


@LOOPS.register_module()
class ScaleSweepLoop(TestLoop):
    """mmengine's test loop, which tests overridden scales, in logits, beside the learned one.

    Metrics, outputs and hooks are those of the learned scale, as without a sweep. One process.
    ProblemsFound if there is no nuScenes metric, or no annotations of the split.

    Attributes:
        learned: The scale in effect that the model came with, by name of its entry.
        parts: For each scale the metrics of the whole, of each condition, and of their halves.
    """

    def __init__(
        self,
        runner: Runner,
        dataloader: Any,
        evaluator: Any,
        scales: Sequence[float],
        fp16: bool = False,
    ) -> None:
        metrics = nuscenes_metric_configs(evaluator)
        if not metrics:
            what = f'test_evaluator has no {NUSCENES_METRIC}'
            stop_on([Problem(what, 'a sweep compares nuScenes metrics: add it')])
        if metrics[0].get('format_only'):
            what = 'test_evaluator.format_only=True leaves nothing to compare'
            remedy = 'give --cfg-options test_evaluator.format_only=False'
            stop_on([Problem(what, remedy)])
        super().__init__(runner, dataloader, evaluator, fp16)
        self._version = version = self.evaluator.dataset_meta['version']
        if version not in EVALUATED_SPLITS:
            what = f"test_dataloader.dataset.metainfo.version='{version}' has no annotated split"
            remedy = f'test on the validation split of one of {", ".join(EVALUATED_SPLITS)}'
            stop_on([Problem(what, remedy)])
        self._temporary = tempfile.TemporaryDirectory()
        # The learned scale comes last: its predictions stay in the samples for the hooks.
        self._evaluators: dict[Scale, Evaluator] = {}
        for scale in (*scales, LEARNED):
            prefix = str(self._detections(scale).parents[1])
            if scale is LEARNED:
                evaluator = self.evaluator
                _nuscenes_metric(evaluator).jsonfile_prefix = prefix
            else:  # without other metrics, which may write over what the learned scale leaves
                own = dict(metrics[0], jsonfile_prefix=prefix, format_only=True)
                evaluator = runner.build_evaluator(own)
                evaluator.dataset_meta = self.evaluator.dataset_meta
            self._evaluators[scale] = evaluator
        self.learned: dict[str, float] = {}
        self.parts: dict[Scale, list[Subset]] = {}

    def _detections(self, scale: Scale) -> Path:
        return Path(self._temporary.name) / str(scale) / DETECTIONS

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

    def run(self) -> dict:
        """Test, then evaluate every scale; returns the metrics of the learned one."""
        with self._temporary:
            metrics = super().run()
            metric, version = _nuscenes_metric(self.evaluator), self._version
            tables = NuScenes(version, metric.data_root, verbose=False)
            for scale, evaluator in self._evaluators.items():
                if scale is not LEARNED:
                    evaluator.evaluate(len(self.dataloader.dataset))
                found = self._detections(scale)
                evaluation = SubsetEvaluation(tables, found, version, metric.eval_version)
                self.parts[scale] = evaluation.subsets('half')
                whole, done = self.parts[scale][0].metrics, len(self.parts)
                self.runner.logger.info(
                    f'scale {LEARNED_POINT if scale is LEARNED else scale}: NDS {whole["NDS"]:.4f}'
                    f' mAP {whole["mAP"]:.4f}, {done} of {len(self._evaluators)} evaluated'
                )
        return metrics


def write_sweep(
    table: pd.DataFrame, learned: Mapping[str, float], out_dir: Path, source: str, command: str
) -> None:
    """Write the report, the plot and the :func:`sweep_table`.

    ``learned`` is that of the loop; ``source`` says what was tested, ``command`` repeats it.
    """
    write_atomically(out_dir / TABLE, table.to_csv(index=False).encode())
    save_figure(draw_sweep(table, learned), out_dir / PLOT)
    entries = pd.Series(learned, name='learned scale (logits)').map('{:.3f}'.format)
    sections = [
        f'# The bias scale at test time\n\n{source}\n\n```bash\n{command}\n```',
        _markdown(entries.rename_axis('entry').reset_index()),
        f'![NDS and mAP over the bias scale]({PLOT})',
    ]
    for score in SCORES:
        best = best_table(table, score)
        most = best['best minus worst'].max()
        note = (
            f'The choice of the scale moves the {score} of no part by more than {most:.4f}; '
            'an order of the conditions means nothing where that is less than the noise between '
            'seeds.'
        )
        scores = score_table(table, score).rename_axis('scale').reset_index()
        sections += [f'## {score}', _markdown(best), note, _markdown(scores)]
    sections.append(f'## How sure this is\n{READING.rstrip()}')
    write_atomically(out_dir / REPORT, ('\n\n'.join(sections) + '\n').encode())


def sweep_table(
    learned: Mapping[str, float], parts: Mapping[Scale, Sequence[Subset]]
) -> pd.DataFrame:
    """A row for each scale and part, as :class:`.ScaleSweepLoop` has them, the learned one last.

    ``point`` is 'learned' or 'override', ``scale`` in logits, NaN for a learned one with several
    entries, ``label`` '2.5', 'learned (2.613)', or 'learned' for many entries; the other columns
    are those of :class:`.Subset`: mAP, NDS, the mean errors, the APs of the classes.
    """
    own, label = math.nan, LEARNED_POINT
    if len(learned) == 1:
        (own,) = learned.values()
        label = f'{LEARNED_POINT} ({own:.3f})'
    return pd.DataFrame(
        {
            'point': LEARNED_POINT if scale is LEARNED else OVERRIDE,
            'scale': own if scale is LEARNED else scale,
            'label': label if scale is LEARNED else f'{scale:.12g}',
            'part': part.name,
            'kind': part.kind,
            'frames': part.samples,
            'scenes': part.scenes,
            'objects': part.objects,
            'classes without objects': ', '.join(part.absent_classes),
            **part.metrics,
        }
        for scale, of_scale in parts.items()
        for part in of_scale
    )


def score_table(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """One score: scales down (the learned one last), parts across."""
    wide = _split(table)[0].pivot(index='label', columns='part', values=score)
    return wide.reindex(index=table['label'].unique(), columns=table['part'].unique())


def best_table(table: pd.DataFrame, score: str) -> pd.DataFrame:
    """For each part the scale with the highest score, beside the learned one.

    As the report shows it: several scales where they are equal, '(edge)' at the lowest or highest
    of the sweep, and the best in each half of the scenes. ``score`` is 'NDS' or 'mAP'.
    """
    swept = table.loc[table['point'] == OVERRIDE, 'scale']
    whole, halves = _split(table)
    rows = []
    for part, group in whole.groupby('part', sort=False):
        first, scores = group.iloc[0], group.set_index('point')[score]
        top, learned = scores.max(), scores[LEARNED_POINT]
        best = group.loc[group[score] == top, 'scale'].tolist()
        is_edge = len(best) == 1 and best[0] in (swept.min(), swept.max())
        of_part = halves[halves['part'] == part].groupby('kind')
        by_half = [_best_label(half, score) for _, half in of_part]
        rows.append(
            {
                'part': part,
                'frames (scenes)': f'{first["frames"]} ({first["scenes"]})',
                'best scale': _best_label(group, score) + (' (edge)' if is_edge else ''),
                'best in halves': ' / '.join(by_half) or 'one scene',
                f'{score} there': top,
                f'{score} with the learned scale': learned,
                'gain': f'{top - learned:+.4f}',
                'best minus worst': np.ptp(scores),
            }
        )
    return pd.DataFrame(rows)


def draw_sweep(table: pd.DataFrame, learned: Mapping[str, float]) -> Figure:
    """Curves of each part's change against the learned scale, whose entries are upright lines."""
    figure = Figure(figsize=(12.0, 4.5), dpi=120, layout='constrained', facecolor='white')
    for axes, score in zip(figure.subplots(1, len(SCORES)), SCORES, strict=True):
        for name, entry in learned.items():
            axes.axvline(entry, color='grey', linestyle='--', linewidth=0.9, zorder=0)
            place = dict(transform=axes.get_xaxis_transform(), va='bottom', ha='right')
            axes.text(entry, 0.02, f'learned, {name}', rotation=90, fontsize=7, **place)
        for part, group in _split(table)[0].groupby('part', sort=False):
            rows = group[group['point'] == OVERRIDE]
            known = group.loc[group['point'] == LEARNED_POINT, score].item()
            label = f'{part}: {group["frames"].iloc[0]} frames, {score} {known:.3f}'
            axes.plot(rows['scale'], rows[score] - known, '.-', label=label)
        axes.axhline(0, color='grey', linewidth=0.8, zorder=0)
        axes.set_xlabel('bias scale at test time (logits)')
        axes.set_ylabel(f'{score} minus that of the learned')
        axes.grid(color='#e5e5e5', linewidth=0.6)
        axes.legend(fontsize=8, frameon=False)
    return figure


def _split(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of whole parts, and of their halves."""
    is_half = table['kind'].isin(HALVES)
    return table[~is_half], table[is_half]


def _best_label(rows: pd.DataFrame, score: str) -> str:
    """The scales with the highest score."""
    best = rows[rows[score] == rows[score].max()]
    return 'none: all equal' if len(best) == len(rows) else ', '.join(best['label'])


def _markdown(table: pd.DataFrame) -> str:
    """As Markdown, numbers with four digits."""
    shown = table.map(lambda value: f'{value:.4f}' if isinstance(value, float) else value)
    return shown.to_markdown(index=False, disable_numparse=True)

"""What a robustness test looks at beside the metrics: did the input change, whom is trusted."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from mmdet3d.structures import Det3DDataSample
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..bias.head_lookup import biased_heads
from ..bias.weights.oracle import OracleWeightGenerator
from ..cmt.head import CmtHead
from ..failures import CHANGED_KEY
from ..metrics.attention_mass import attention_shares, watch_attention
from ..ops import WindowedBias
from ..spoiled_parts import SPOILED_SENSORS_KEY
from ..unwrapping import unwrapped
from .trust_shift import trust_falls

QUERY_STRIDE = 8
"""Of so many queries one is asked where it attends: all logits of a big model take gigabytes."""


@dataclass
class Watched:
    """What was seen, by sample.

    Attributes:
        changed: Whether a failure changed the sample; None: there was none.
        weights: The router's mean weights of LiDAR and cameras; empty without router.
        query_weights: ``(2, Q)`` float16, the weights of every query; LiDAR, cameras.
        falls: Of the trust in the failed sensors, see :func:`.trust_shift.trust_falls`.
        camera_attention: Share of the cross-attention that goes to cameras, in each layer.
    """

    changed: dict[str, bool | None] = field(default_factory=dict)
    weights: dict[str, tuple[float, float]] = field(default_factory=dict)
    query_weights: dict[str, np.ndarray] = field(default_factory=dict)
    falls: dict[str, tuple[float, float]] = field(default_factory=dict)
    camera_attention: dict[str, list[float]] = field(default_factory=dict)


class FailureWatchHook(Hook):
    """Records what :class:`Watched` has.

    It reads only; the metrics are those of a test without it. Call :meth:`gathered` after the
    test, in all processes.

    Args:
        clean: ``query_weights`` of the test without failure, which ``falls`` compare with.
    """

    def __init__(self, clean: Mapping[str, np.ndarray] | None = None) -> None:
        self._clean = clean or {}
        self._watched = Watched()
        self._weights: np.ndarray | None = None  # (B, 2, Q)
        self._spoiled: np.ndarray | None = None  # (B, 2, Q)
        self._attention: list[np.ndarray] = []  # (B,) of each layer
        self._num_lidar_tokens = 0
        self._handles: list[RemovableHandle] = []

    def before_test(self, runner: Runner) -> None:
        """Listen to the decoder, and to the weight generator if the model has one."""
        for biased in biased_heads(runner.model)[:1]:
            head: Any = biased.head
            oracle = OracleWeightGenerator(head.pc_range)
            self._handles.append(
                biased.weight_generator.register_forward_hook(partial(self._keep_weights, oracle))
            )
        for module in unwrapped(runner.model).modules():
            if isinstance(module, CmtHead):
                self._handles.append(module.register_forward_pre_hook(self._keep_layout))
        self._handles += watch_attention(runner.model, self._keep_attention)

    def _keep_weights(
        self,
        oracle: OracleWeightGenerator,
        module: nn.Module,
        inputs: tuple,
        output: tuple[Tensor, Tensor],
    ) -> None:
        self._weights = torch.stack(output, dim=1).float().cpu().numpy()
        img_metas = inputs[-1]
        if all(SPOILED_SENSORS_KEY in meta for meta in img_metas):
            self._spoiled = torch.stack(oracle(*inputs), dim=1).cpu().numpy() < 0

    def _keep_layout(self, head: nn.Module, inputs: tuple) -> None:
        bev_features = inputs[0][0] if inputs[0] else None
        self._num_lidar_tokens = 0 if bev_features is None else bev_features[0, 0].numel()
        self._attention = []

    def _keep_attention(self, query: Tensor, key: Tensor, bias: WindowedBias | None) -> None:
        some = torch.arange(0, query.shape[2], QUERY_STRIDE, device=query.device)
        bias = None if bias is None else bias.of_queries(some)
        shares = attention_shares(query[:, :, some], key, bias)  # (B, Q, K)
        cameras = shares[..., self._num_lidar_tokens :].sum(-1).mean(-1)
        self._attention.append(cameras.cpu().numpy())

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[Det3DDataSample] | None = None,
    ) -> None:
        """Record the samples of one batch."""
        watched = self._watched
        for place, sample in enumerate(outputs or ()):
            name = str(sample.metainfo.get('token', sample.metainfo.get('sample_idx')))
            watched.changed[name] = sample.metainfo.get(CHANGED_KEY)
            watched.camera_attention[name] = [float(layer[place]) for layer in self._attention]
            if self._weights is None:
                continue
            weights = self._weights[place]
            lidar, camera = weights.mean(axis=1)
            watched.weights[name] = float(lidar), float(camera)
            watched.query_weights[name] = weights.astype(np.float16)
            if self._spoiled is not None and name in self._clean:
                watched.falls[name] = trust_falls(self._clean[name], weights, self._spoiled[place])

    def after_test(self, runner: Runner) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()

    def gathered(self) -> Watched:
        """The records of all processes."""
        together = Watched()
        for part in all_gather_object(self._watched):
            for name, records in vars(part).items():
                getattr(together, name).update(records)
        return together

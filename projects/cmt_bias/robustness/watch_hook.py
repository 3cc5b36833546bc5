"""What a robustness test looks at beside the metrics: did the input change, whom is trusted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
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

QUERY_STRIDE = 8  # one of so many is asked where it attends: all logits can take gigabytes


@dataclass
class WatchedSample:
    """What was seen of a sample; weights are None without router, falls without failure."""

    changed: bool | None  # by a failure; None: there was none
    camera_attention: list[float]  # share of the cross-attention that goes to cameras, by layer
    query_weights: np.ndarray | None = None  # (2, Q) float16, of LiDAR and cameras
    weights: list[float] | None = None  # their means over the queries
    falls: tuple[float, float] | None = None  # of the trust in the failed sensors: trust_falls


def trust_falls(clean: np.ndarray, failed: np.ndarray, spoiled: np.ndarray) -> tuple[float, float]:
    """How far the trust of queries in the failed sensors has fallen, each compared with itself.

    ``clean`` and ``failed`` are ``(2, Q)`` weights of LiDAR and cameras without and under the
    failure, ``spoiled`` is ``(2, Q)`` bool: what of a sensor a query looks at is spoiled. Returns
    the mean fall where they look at a spoiled part, and in the same sensors of those that look
    elsewhere; above zero where trust is withdrawn, NaN without such queries.
    """
    sensors = spoiled.any(axis=1)
    falls = clean[sensors].astype(np.float64) - failed[sensors]
    there, elsewhere = (
        float(chosen.mean()) if chosen.size else np.nan
        for chosen in (falls[spoiled[sensors]], falls[~spoiled[sensors]])
    )
    return there, elsewhere


class FailureWatchHook(Hook):
    """Records a :class:`WatchedSample` for each sample, and changes nothing.

    ``clean`` has by sample the ``query_weights`` of the test without failure, which ``falls``
    compare with.
    """

    def __init__(self, clean: Mapping[str, np.ndarray]) -> None:
        self._clean = clean
        self._watched: dict[str, WatchedSample] = {}
        self._weights: np.ndarray | None = None  # (B, 2, Q)
        self._spoiled: np.ndarray | None = None  # (B, 2, Q)
        self._attention: list[np.ndarray] = []  # (B,) of each layer
        self._num_lidar_tokens = 0
        self._handles: list[RemovableHandle] = []

    def before_test(self, runner: Runner) -> None:
        """Listen to the decoder, and to the weight generator if the model has one."""
        for biased in biased_heads(runner.model)[:1]:
            head: Any = biased.head
            self._oracle = OracleWeightGenerator(head.pc_range)
            self._handles.append(biased.weight_generator.register_forward_hook(self._keep_weights))
        for module in unwrapped(runner.model).modules():
            if isinstance(module, CmtHead):
                self._handles.append(module.register_forward_pre_hook(self._keep_layout))
        self._handles += watch_attention(runner.model, self._keep_attention)

    def _keep_weights(self, _: nn.Module, inputs: tuple, weights: tuple[Tensor, Tensor]) -> None:
        self._weights = torch.stack(weights, dim=1).float().cpu().numpy()
        if all(SPOILED_SENSORS_KEY in meta for meta in inputs[-1]):
            self._spoiled = torch.stack(self._oracle(*inputs), dim=1).cpu().numpy() < 0

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
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Record the samples of one batch."""
        for place, sample in enumerate(outputs or ()):
            meta = sample.metainfo
            name = str(meta.get('token', meta.get('sample_idx')))
            attention = [float(layer[place]) for layer in self._attention]
            seen = self._watched[name] = WatchedSample(meta.get(CHANGED_KEY), attention)
            if self._weights is not None:
                weights = self._weights[place]
                seen.query_weights = weights.astype(np.float16)
                seen.weights = weights.mean(axis=1).tolist()
                if self._spoiled is not None and name in self._clean:
                    seen.falls = trust_falls(self._clean[name], weights, self._spoiled[place])

    def after_test(self, runner: Runner) -> None:
        """Stop listening."""
        for handle in self._handles:
            handle.remove()

    def gathered(self) -> dict[str, WatchedSample]:
        """The records of all processes, by sample; call it after the test, in all of them."""
        parts = all_gather_object(self._watched)
        return {name: seen for part in parts for name, seen in part.items()}

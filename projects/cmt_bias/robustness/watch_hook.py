"""What a robustness test looks at beside the metrics: did the input change, whom is trusted."""

from collections.abc import Sequence

from mmdet3d.structures import Det3DDataSample
from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ..bias.head_lookup import biased_heads
from ..failures import CHANGED_KEY


class FailureWatchHook(Hook):
    """Records for each tested sample whether a failure changed it, and the router's mean weights.

    It reads only; the metrics are those of a test without it. Call :meth:`gathered` after the
    test, in all processes.
    """

    def __init__(self) -> None:
        self._changed: dict[str, bool | None] = {}
        self._weights: dict[str, tuple[float, float]] = {}
        self._latest: tuple[Tensor, Tensor] | None = None
        self._handle: RemovableHandle | None = None

    def before_test(self, runner: Runner) -> None:
        """Listen to the weight generator, if the model has one."""
        heads = biased_heads(runner.model)
        if heads:
            self._handle = heads[0].weight_generator.register_forward_hook(self._keep_weights)

    def _keep_weights(
        self, module: nn.Module, inputs: tuple, output: tuple[Tensor, Tensor]
    ) -> None:
        """Mean weights over the queries, (B,) each, of the LiDAR and of the cameras."""
        lidar, camera = output
        self._latest = lidar.float().mean(dim=1), camera.float().mean(dim=1)

    def after_test_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: dict | None = None,
        outputs: Sequence[Det3DDataSample] | None = None,
    ) -> None:
        """Record the samples of one batch."""
        for place, sample in enumerate(outputs or ()):
            name = str(sample.metainfo.get('token', sample.metainfo.get('sample_idx')))
            self._changed[name] = sample.metainfo.get(CHANGED_KEY)
            if self._latest is not None:
                lidar, camera = self._latest
                self._weights[name] = float(lidar[place]), float(camera[place])

    def after_test(self, runner: Runner) -> None:
        """Stop listening."""
        if self._handle is not None:
            self._handle.remove()

    def gathered(self) -> tuple[dict[str, bool | None], dict[str, tuple[float, float]]]:
        """The records of all processes.

        Returns:
            By sample: whether a failure changed it (None: there was none); and the mean weights
            of LiDAR and cameras over its queries, empty for a model without weight generator.
        """
        changed: dict[str, bool | None] = {}
        weights: dict[str, tuple[float, float]] = {}
        for part in all_gather_object((self._changed, self._weights)):
            changed.update(part[0])
            weights.update(part[1])
        return changed, weights

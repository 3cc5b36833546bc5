"""Epoch-based training that can go on in the middle of an epoch."""

from collections.abc import Sequence

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(EpochBasedTrainLoop):
    """mmengine's epoch-based loop, which on resume skips the batches the epoch has already seen.

    mmengine's own starts the epoch anew after a checkpoint written inside it (`by_epoch=False`):
    it trains on some batches twice and counts its iterations wrongly. The skipped batches are
    loaded, which brings random augmentations in worker processes to where they were. Arguments:
    `train_cfg=dict(type='ResumableEpochBasedTrainLoop', max_epochs=20, val_interval=1)`.
    """

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Train on a batch, the `idx`-th of the epoch, unless that was done before the resume."""
        num_done = self._iter - self._epoch * len(self.dataloader)
        if idx >= num_done:
            super().run_iter(idx, data_batch)
        elif idx == num_done - 1:
            self.runner.call_hook('after_skipping_batches')

"""Epoch-based training that can go on in the middle of an epoch."""

import logging

from mmengine.logging import print_log
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop


@LOOPS.register_module()
class ResumableEpochBasedTrainLoop(EpochBasedTrainLoop):
    """mmengine's epoch-based loop, which on resume skips the batches the epoch has already seen.

    mmengine's own loop starts the epoch anew, so that a run resumed from a checkpoint written
    inside an epoch (`by_epoch=False`) trains on some batches twice and counts its iterations
    wrongly. The skipped batches are loaded, which brings random augmentations in worker processes
    to where they were; it costs the time of loading, not of training.

    Takes the arguments of the base class: `train_cfg=dict(type='ResumableEpochBasedTrainLoop',
    max_epochs=20, val_interval=1)`.
    """

    def run_epoch(self) -> None:
        """Train on the batches of one epoch that are still to come."""
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        num_batches = len(self.dataloader)
        num_done = self._iter - self._epoch * num_batches
        if num_done < num_batches:
            batches = enumerate(self.dataloader)
            if num_done > 0:
                print_log(
                    f'Skipping {num_done} of {num_batches} batches of epoch {self._epoch + 1}, '
                    'which were trained on before the resume.',
                    logger='current',
                    level=logging.INFO,
                )
                for _ in range(num_done):
                    next(batches)
                self.runner.call_hook('after_skipping_batches')
            for index, data_batch in batches:
                self.run_iter(index, data_batch)
        else:
            self.runner.call_hook('after_skipping_batches')
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1

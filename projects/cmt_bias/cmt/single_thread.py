"""One thread for code that gives wrong results with several."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def single_thread_on_cpu(reference: Tensor) -> Iterator[None]:
    """Run on one thread if ``reference`` is on the CPU; nothing changes on other devices.

    spconv 2.3.8 adds up the products of a sparse convolution on the CPU without locks: with two
    threads some are lost, 0.1 to 0.5 % of the sparse encoder's output on a nuScenes frame, others
    in each run.

    Args:
        reference: Any tensor on the device in question.
    """
    threads = torch.get_num_threads()
    if reference.device.type == 'cpu':
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)

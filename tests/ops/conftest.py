"""Where the CPU's backend cannot run, its tests are left out."""

import pytest
import torch

HAS_FLASH = hasattr(torch.ops.aten, '_scaled_dot_product_flash_attention_for_cpu')


def pytest_runtest_setup(item):
    parameters = item.callspec.params if hasattr(item, 'callspec') else {}
    names_cpu = 'cpu' in parameters.values() or item.get_closest_marker('cpu_backend')
    if names_cpu and not HAS_FLASH:
        pytest.skip(f'torch {torch.__version__} has no flash attention for CPUs with a mask')

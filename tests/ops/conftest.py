"""Both ways to read windows: the compiled loop, and torch's operators."""

from collections.abc import Iterator

import pytest

from cmt_bias.ops import planning
from cmt_bias.ops.window_kernel import load_window_kernel


@pytest.fixture(scope='module', params=['compiled loop', 'torch operators'])
def window_kernel(request: pytest.FixtureRequest) -> Iterator[None]:
    """Plans of the one kind, then of the other."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == 'torch operators':
            patch.setattr(planning, 'load_window_kernel', lambda: None)
        else:
            assert load_window_kernel() is not None
        yield

"""Plans for windows: the kind that is fastest where they lie."""

from torch import Tensor

from .grouped_windows import group_windows
from .listed_windows import list_windows
from .window_kernel import load_window_kernel
from .window_plan import WindowPlan, check_index


def plan_windows(index: Tensor, num_keys: int) -> WindowPlan:
    """Find out about windows what attention to them needs to know.

    Any indices are right; fast are those that come from windows in grids: slots of one window
    next to each other, row by row, -1 where the window is cut.

    On CPU the windows' keys are read one by one in a compiled loop. Without a C++ compiler, and on
    other devices, neighbouring windows are gathered into groups for torch's matrix products.

    Args:
        index: ``(B, Q, W)`` int64 keys in each query's windows, -1 for none.
        num_keys: K.

    Returns:
        The plan, for any number of calls with the same ``index``.

    Raises:
        ValueError: If ``index`` is not an integer tensor with three axes, or holds a key
            outside ``[-1, num_keys)``.
    """
    check_index(index, num_keys)
    kernel = load_window_kernel() if index.device.type == 'cpu' else None
    if kernel is None:
        return group_windows(index, num_keys)
    return list_windows(index, num_keys, kernel)

"""Put a sensor failure into a pipeline."""

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence

from mmdet3d.datasets.transforms import Pack3DDetInputs

from ..config_type import type_name
from .sensor_failure import CHANGED_KEY
from .spoiled_parts import SPOILED_REGIONS_KEY, SPOILED_SENSORS_KEY, SPOILED_VIEWS_KEY

ADDED_KEYS = (CHANGED_KEY, SPOILED_SENSORS_KEY, SPOILED_VIEWS_KEY, SPOILED_REGIONS_KEY)
"""What failures tell of a sample."""


def with_failure(pipeline: Sequence[Mapping], failure: Iterable[Mapping]) -> list[dict]:
    """A pipeline that spoils what it has loaded.

    The failure comes right behind the last loading transform, hence before every augmentation and
    filter. A loading transform is one with "Load" in the name of its class, as all those of
    mmdet3d and of this project have it. The packing passes what the failure tells on as meta
    information.

    Args:
        pipeline: Configs of a pipeline; stays as it is.
        failure: Configs of the failure's transforms, in their order.

    Returns:
        Copy of the pipeline with the failure in it.

    Raises:
        ValueError: If the pipeline has no loading transform or no packing at its top level.
    """
    steps = [dict(copy.deepcopy(dict(step))) for step in pipeline]
    kinds = [type_name(step) for step in steps]
    behind = max((i + 1 for i, kind in enumerate(kinds) if 'Load' in kind), default=0)
    if not behind or 'Pack3DDetInputs' not in kinds:
        lacking = 'Pack3DDetInputs' if behind else 'transform that loads something'
        raise ValueError(
            f'the test pipeline has no {lacking} at its top level ({", ".join(kinds) or "empty"}),'
            ' by which the place of a sensor failure is found'
        )
    default = inspect.signature(Pack3DDetInputs).parameters['meta_keys'].default
    for step in steps:
        if type_name(step) == 'Pack3DDetInputs':
            keys = (*step.get('meta_keys', default), *ADDED_KEYS)
            step['meta_keys'] = tuple(dict.fromkeys(keys))
    return [*steps[:behind], *(copy.deepcopy(dict(step)) for step in failure), *steps[behind:]]

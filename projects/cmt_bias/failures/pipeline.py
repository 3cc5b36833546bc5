"""Put a sensor failure into a pipeline."""

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence

from mmdet3d.datasets.transforms import Pack3DDetInputs
from mmdet3d.registry import TRANSFORMS

from .sensor_failure import CHANGED_KEY
from .spoiled_parts import SPOILED_REGIONS_KEY, SPOILED_SENSORS_KEY, SPOILED_VIEWS_KEY


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
    loading = [i for i, step in enumerate(steps) if 'Load' in _class_name(step)]
    packing = [step for step in steps if _class_name(step) == Pack3DDetInputs.__name__]
    if not loading or not packing:
        lacking = 'transform that loads something' if not loading else 'Pack3DDetInputs'
        raise ValueError(
            f'the test pipeline has no {lacking} at its top level ({_names(steps)}), by which the '
            'place of a sensor failure is found'
        )
    for step in packing:
        default = inspect.signature(Pack3DDetInputs).parameters['meta_keys'].default
        step['meta_keys'] = _extended(step.get('meta_keys', default))
    behind = loading[-1] + 1
    return [*steps[:behind], *(copy.deepcopy(dict(step)) for step in failure), *steps[behind:]]


def _extended(meta_keys: Sequence[str]) -> tuple[str, ...]:
    """With the keys that failures add."""
    added = (CHANGED_KEY, SPOILED_SENSORS_KEY, SPOILED_VIEWS_KEY, SPOILED_REGIONS_KEY)
    return tuple(dict.fromkeys((*meta_keys, *added)))


def _class_name(step: Mapping) -> str:
    """Name of a transform's class, without the scope that a config may give."""
    kind = step['type']
    if isinstance(kind, str):
        found = TRANSFORMS.get(kind)
        return kind.rpartition('.')[2] if found is None else found.__name__
    return kind.__name__


def _names(steps: Sequence[Mapping]) -> str:
    return ', '.join(map(_class_name, steps)) or 'empty'

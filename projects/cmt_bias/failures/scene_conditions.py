"""Day, night, rain and fog: what scene descriptions tell, and the sensors that suffer from it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS

from .sample_random import sample_token
from .spoiled_parts import add_spoiled

DAY = 'day'
CONDITION_WORDS = {'night': r'\bnight', 'rain': r'\brain', 'fog': r'\bfog'}


def scene_condition(description: str) -> str:
    """The condition that a scene's description tells of.

    Args:
        description: Such as 'Night, after rain, many peds in lit area'.

    Returns:
        'day', 'night', 'rain', 'fog' or, where several are named, such as 'night and rain': each
        scene has exactly one. As usual with nuScenes, 'after rain' counts as rain.
    """
    named = [
        condition
        for condition, word in CONDITION_WORDS.items()
        if re.search(word, description, re.IGNORECASE)
    ]
    return ' and '.join(named) or DAY


@TRANSFORMS.register_module()
class LabelSpoiledSensors(BaseTransform):
    """Write down which sensors suffer from a sample's condition; its input stays as it is.

    For an :class:`OracleWeightGenerator`: nothing else reads the label. Put
    ``spoiled_sensors`` into the ``meta_keys`` of the packing.

    Added key: ``spoiled_sensors``, letters of 'LC', '' where no sensor suffers.

    Args:
        data_root: Folder of the nuScenes data.
        version: Folder of the tables in it.
        spoiled_by: For conditions of :func:`scene_condition` the sensors that suffer: 'L', 'C' or
            'LC'.

    Raises:
        FileNotFoundError: If the tables are not there.
        ValueError: If ``spoiled_by`` names something else than sensors.
    """

    def __init__(self, data_root: str, version: str, spoiled_by: Mapping[str, str]) -> None:
        for condition, sensors in spoiled_by.items():
            if not set(sensors) <= set('LC'):
                raise ValueError(
                    f"LabelSpoiledSensors: spoiled_by['{condition}']='{sensors}' must be 'L', 'C' "
                    "or 'LC'"
                )
        self.sensors_of_token = _sensors_of_tokens(Path(data_root) / version, spoiled_by)

    def transform(self, results: dict) -> dict:
        """Label one sample."""
        add_spoiled(results, self.sensors_of_token.get(sample_token(results), ''))
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(samples={len(self.sensors_of_token)})'


def _sensors_of_tokens(tables: Path, spoiled_by: Mapping[str, str]) -> dict[str, str]:
    """Sensors of the samples whose condition spoils any."""
    if not (tables / 'scene.json').is_file():
        raise FileNotFoundError(
            f'LabelSpoiledSensors: no {tables / "scene.json"}; set data_root and version to the '
            'nuScenes data'
        )
    scenes = json.loads((tables / 'scene.json').read_text())
    samples = json.loads((tables / 'sample.json').read_text())
    sensors_of_scene = {
        scene['token']: spoiled_by.get(scene_condition(scene['description']), '')
        for scene in scenes
    }
    return {
        sample['token']: sensors_of_scene[sample['scene_token']]
        for sample in samples
        if sensors_of_scene[sample['scene_token']]
    }

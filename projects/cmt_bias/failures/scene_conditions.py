"""Day, night, rain and fog: what scene descriptions tell, and the sensors that suffer from it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from mmcv.transforms import BaseTransform
from mmdet3d.registry import TRANSFORMS

from ..datasets.nuscenes_layout import scenes_of_samples
from ..spoiled_parts import add_spoiled
from .sensor_failure import sample_token

DAY = 'day'
CONDITION_WORDS = {'night': r'\bnight', 'rain': r'\brain', 'fog': r'\bfog'}


def scene_condition(description: str) -> str:
    """The one condition that a scene's description tells of: 'day', 'night', 'night and rain', ...

    As usual with nuScenes, 'after rain' counts as rain.
    """
    words = CONDITION_WORDS.items()
    named = [name for name, word in words if re.search(word, description, re.IGNORECASE)]
    return ' and '.join(named) or DAY


@TRANSFORMS.register_module()
class LabelSpoiledSensors(BaseTransform):
    """Write down which sensors suffer from a sample's condition; its input stays as it is.

    For an :class:`OracleWeightGenerator`. Put the added key ``spoiled_sensors``, letters of 'LC',
    '' where no sensor suffers, into the ``meta_keys`` of the packing.

    Args:
        data_root: Folder of the nuScenes data; several, if it is to label samples of several.
        version: Folder of the tables in each.
        spoiled_by: For conditions of :func:`scene_condition` the sensors that suffer: 'L', 'C' or
            'LC'. 'night' also means nights with rain, 'night and rain' these alone.

    If ``spoiled_by`` names any condition, a FileNotFoundError is raised without the tables, a
    KeyError for a sample that is not in them; a ValueError, if it names anything else.
    """

    def __init__(
        self, data_root: str | Sequence[str], version: str, spoiled_by: Mapping[str, str]
    ) -> None:
        known = {DAY, *CONDITION_WORDS}
        for condition, sensors in spoiled_by.items():
            what = f"LabelSpoiledSensors: spoiled_by['{condition}']"
            if not set(condition.split(' and ')) <= known:
                there = f"{', '.join(sorted(known))}, and several with ' and ' between them"
                raise ValueError(f'{what} is no condition; there are {there}')
            if not set(sensors) <= set('LC'):
                raise ValueError(f"{what}='{sensors}' must be 'L', 'C' or 'LC'")
        self.data_root = [data_root] if isinstance(data_root, str) else list(data_root)
        self.spoiled_by = spoiled_by
        self.sensors_of_token: dict[str, str] = {}
        for folder in self.data_root if spoiled_by else ():
            for token, scene in scenes_of_samples(Path(folder) / version).items():
                parts = set(scene_condition(scene['description']).split(' and '))
                self.sensors_of_token[token] = ''.join(
                    s for name, s in spoiled_by.items() if parts.issuperset(name.split(' and '))
                )

    def transform(self, results: dict) -> dict:
        """Label one sample."""
        token = sample_token(results)
        if self.spoiled_by and token not in self.sensors_of_token:
            raise KeyError(
                f"LabelSpoiledSensors: the sample '{token}' is not in the tables of "
                f'data_root={self.data_root}; add the folder of its data to data_root'
            )
        add_spoiled(results, self.sensors_of_token.get(token, ''))
        return results

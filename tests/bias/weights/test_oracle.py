"""The weights of an oracle, in words and numbers."""

import pytest
import torch

from cmt_bias.bias import OracleWeightGenerator

from .test_router import some_windows


def weights_of(generator: OracleWeightGenerator, labels: list[str]) -> list[list[float]]:
    """For each sample its LiDAR and its camera weight, the same for all six queries."""
    tokens = torch.zeros(len(labels), 6, 16)
    img_metas = [dict(spoiled_sensors=label) for label in labels]
    lidar, camera = generator(tokens, tokens, tokens, some_windows(), img_metas)
    assert lidar.shape == camera.shape == (len(labels), 6)
    assert lidar.dtype == camera.dtype == torch.float32
    assert (lidar == lidar[:, :1]).all() and (camera == camera[:, :1]).all()
    return torch.stack((lidar[:, 0], camera[:, 0]), dim=1).tolist()


def test_an_oracle_trusts_the_healthy_sensors_alone():
    weights = weights_of(OracleWeightGenerator(), ['', 'L', 'C', 'LC'])
    assert weights == [[1, 1], [-1, 1], [1, -1], [-1, -1]]


def test_the_wrong_sign_trusts_the_spoiled_sensors_alone():
    weights = weights_of(OracleWeightGenerator(wrong_sign=True), ['', 'L', 'C', 'LC'])
    assert weights == [[-1, -1], [1, -1], [-1, 1], [1, 1]]


def test_without_labels_the_remedy_is_named():
    tokens = torch.zeros(1, 6, 16)
    with pytest.raises(KeyError, match='LabelSpoiledSensors'):
        OracleWeightGenerator()(tokens, tokens, tokens, some_windows(), [{}])

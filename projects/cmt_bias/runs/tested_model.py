"""A model with the weights of a checkpoint, ready to detect."""

from typing import Any

from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.runner import load_checkpoint

from .checkpoint_check import check_tested_weights
from .preflight import stop_on


def build_tested_model(config: Config, checkpoint: str, device: str) -> Any:
    """Build a config's model in evaluation mode, with a checkpoint's weights.

    Args:
        config: With the key ``model``.
        checkpoint: The file.
        device: Where the model shall run, such as 'cuda:1'.

    Returns:
        The detector.

    Raises:
        ProblemsFound: If the checkpoint lacks parts of the model.
        CheckpointError: If the file is damaged, unsafe to read or of another model.
    """
    model = MODELS.build(config.model)
    stop_on(check_tested_weights(model, checkpoint))
    load_checkpoint(model, checkpoint, map_location='cpu')
    return model.to(device).eval()

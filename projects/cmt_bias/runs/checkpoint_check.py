"""Does a checkpoint fit the model it is to be loaded into? Asked before testing."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, load_checkpoint
from torch import nn

from ..checkpoints.checkpoint_report import CheckpointReport, compare_state_dict
from ..checkpoints.safe_loading import weights_of
from ..problem import Problem
from ..unwrapping import unwrapped
from .preflight import stop_on


def check_checkpoint_file(path: str | None) -> list[Problem]:
    """Whether a local checkpoint exists; addresses such as https:// are passed over."""
    if path is None or '://' in path or Path(path).expanduser().is_file():
        return []
    remedy = (
        'check the path; for load_from in a config: get the file that its comment names, or start '
        'from random weights with --cfg-options load_from=None'
    )
    return [Problem(f"the checkpoint '{path}' does not exist", remedy)]


def report_checkpoint(
    model: nn.Module, path: str, skipped: Sequence[str] = ()
) -> CheckpointReport:
    """Compare a checkpoint with a model, maybe a wrapped one, but for the ``skipped`` parts of it.

    Raises:
        CheckpointError: If the checkpoint is another model's or has parts of another size, or the
            file is damaged or unsafe to read.
    """
    checkpoint = CheckpointLoader.load_checkpoint(path, map_location='cpu')
    report = compare_state_dict(unwrapped(model), weights_of(checkpoint, path), skipped)
    report.raise_if_other_model(path)
    return report


def check_tested_weights(
    model: nn.Module, path: str, allow_missing_keys: bool = False
) -> list[Problem]:
    """Whether a checkpoint has all that a model needs; raises as :func:`report_checkpoint`.

    Missing keys are errors or, if they are allowed, a warning.
    """
    report = report_checkpoint(model, path)
    if report.is_complete:
        return []
    what = f"the checkpoint '{path}' lacks parts of the model:\n{report.describe()}"
    remedy = (
        'test with the config that the checkpoint was trained with, or give '
        '--allow-missing-keys to test with these parts at their initialization'
    )
    return [Problem(what, remedy, 'warning' if allow_missing_keys else 'error')]


def build_tested_model(config: Config, checkpoint: str, device: str) -> Any:
    """Build a config's model in evaluation mode on a device, with a checkpoint's weights.

    Raises:
        ProblemsFound: If the checkpoint lacks parts of the model.
        CheckpointError: If the file is damaged, unsafe to read or of another model.
    """
    model = MODELS.build(config.model)
    stop_on(check_tested_weights(model, checkpoint))
    load_checkpoint(model, checkpoint, map_location='cpu')
    return model.to(device).eval()

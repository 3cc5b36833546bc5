"""A synthetic dataset in the nuScenes v1.0 schema, for demos and tests without real data."""

from .dataset import DatasetConflictError, generate_dataset, is_complete
from .settings import PRESETS, DatasetSettings

__all__ = ['PRESETS', 'DatasetConflictError', 'DatasetSettings', 'generate_dataset', 'is_complete']

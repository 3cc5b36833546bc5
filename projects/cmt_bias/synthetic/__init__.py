"""A synthetic dataset in the nuScenes v1.0 schema, for demos and tests without real data."""

from .configuration import DatasetSettings
from .dataset import DatasetConflictError, generate_dataset, is_complete

__all__ = ['DatasetConflictError', 'DatasetSettings', 'generate_dataset', 'is_complete']

"""Pictures of a sample: its cameras and bird's-eye view with boxes, or with the attention bias."""

from ..atomic_file import save_figure
from .bias_picture import draw_bias
from .dataset_scenes import DatasetScenes
from .detection_picture import draw_scene
from .detection_picture_hook import DetectionPictureHook
from .observed_bias import ObservedBias, best_queries, mass_table, observe_bias
from .scene import CameraView, Scene, scene_from_sample

__all__ = [
    'CameraView',
    'DatasetScenes',
    'DetectionPictureHook',
    'ObservedBias',
    'Scene',
    'best_queries',
    'draw_bias',
    'draw_scene',
    'mass_table',
    'observe_bias',
    'save_figure',
    'scene_from_sample',
]

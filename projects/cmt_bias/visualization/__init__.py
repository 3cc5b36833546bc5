"""Pictures of a sample: its cameras and bird's-eye view with boxes, or with the attention bias."""

from .bias_picture import draw_bias
from .dataset_scenes import DatasetScenes
from .detection_picture import DetectionPictureHook, draw_scene
from .observed_bias import ObservedBias, mass_table, observe_bias
from .scene import CameraView, Scene, scene_from_sample

__all__ = ['CameraView', 'DatasetScenes', 'DetectionPictureHook', 'ObservedBias', 'Scene']
__all__ += ['draw_bias', 'draw_scene', 'mass_table', 'observe_bias', 'scene_from_sample']

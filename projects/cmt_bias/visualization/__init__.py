"""Pictures of detections: the cameras and the bird's-eye view of a sample with its boxes."""

from .detection_picture import draw_scene, save_figure
from .detection_picture_hook import DetectionPictureHook
from .detection_scene import CameraView, DetectionScene, LabelledBoxes
from .sample_captions import SampleCaptions, read_scene_titles, spread_samples
from .scene_from_sample import scene_from_sample

__all__ = [
    'CameraView',
    'DetectionPictureHook',
    'DetectionScene',
    'LabelledBoxes',
    'SampleCaptions',
    'draw_scene',
    'read_scene_titles',
    'save_figure',
    'scene_from_sample',
    'spread_samples',
]

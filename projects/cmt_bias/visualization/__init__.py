"""Pictures of a sample: its cameras and bird's-eye view with boxes, or with the attention bias."""

from ..atomic_file import save_figure
from .attention_mass import attention_mass
from .bias_observer import BiasObservation, BiasObserver
from .bias_picture import draw_bias
from .bias_scene import BiasScene, make_bias_scene, mass_table
from .detection_picture import draw_scene
from .detection_picture_hook import DetectionPictureHook
from .detection_scene import CameraView, DetectionScene, LabelledBoxes
from .sample_captions import SampleCaptions, read_scene_titles, spread_samples
from .scene_from_sample import scene_from_sample

__all__ = [
    'BiasObservation',
    'BiasObserver',
    'BiasScene',
    'CameraView',
    'DetectionPictureHook',
    'DetectionScene',
    'LabelledBoxes',
    'SampleCaptions',
    'attention_mass',
    'draw_bias',
    'draw_scene',
    'make_bias_scene',
    'mass_table',
    'read_scene_titles',
    'save_figure',
    'scene_from_sample',
    'spread_samples',
]

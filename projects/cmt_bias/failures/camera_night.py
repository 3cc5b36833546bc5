"""Images taken by night."""

import numpy as np
from mmdet3d.registry import TRANSFORMS

from .image_values import as_image
from .sensor_failure import SensorFailure
from .severity import at_severity

_LEVELS = ((1.5, 0.6, 4.0), (2.0, 0.4, 8.0), (2.5, 0.25, 12.0))


@TRANSFORMS.register_module()
class CameraNight(SensorFailure):
    """Darker images with the noise of a high gain; the counterpart of MultiCorrupt's "dark".

    A value v in 0-255 becomes ``255 gain (v / 255)^gamma`` with shot noise (variance proportional
    to the value) and read noise. Severity 1, 2, 3: gamma 1.5, 2, 2.5; gain 0.6, 0.4, 0.25; read
    noise of standard deviation 4, 8, 12. The LiDAR brings its own light and sees as by day.

    Args:
        severity: 1 to 3.
        seed: Seed of the noise.
    """

    spoiled = ('img',)

    def __init__(self, severity: int = 2, seed: int = 0) -> None:
        super().__init__(seed)
        self.severity = severity
        self.gamma, self.gain, self.read_noise = at_severity(_LEVELS, severity, 'CameraNight')

    def spoil(self, results: dict, rng: np.random.Generator) -> None:
        """See :meth:`SensorFailure.spoil`."""
        results['img'] = [self._darken(image, rng) for image in results['img']]

    def _darken(self, image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        light = np.clip(image.astype(np.float32), 0, 255) / 255
        dark = 255 * self.gain * light**self.gamma
        deviation = np.sqrt(self.read_noise**2 + self.read_noise * dark)
        noise = rng.standard_normal(image.shape, dtype=np.float32)
        return as_image(dark + deviation * noise, image.dtype)

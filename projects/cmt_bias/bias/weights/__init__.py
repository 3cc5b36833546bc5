"""Where a query's trust in each sensor comes from."""

from .oracle import OracleWeightGenerator
from .router import AQRWeightGenerator
from .weight_generator import ConstantWeightGenerator, WeightGenerator

__all__ = [
    'AQRWeightGenerator',
    'ConstantWeightGenerator',
    'OracleWeightGenerator',
    'WeightGenerator',
]

"""Where a query's trust in each sensor comes from."""

from .constant import ConstantWeightGenerator
from .oracle import OracleWeightGenerator
from .router import AQRWeightGenerator
from .weight_generator import WeightGenerator

__all__ = [
    'AQRWeightGenerator',
    'ConstantWeightGenerator',
    'OracleWeightGenerator',
    'WeightGenerator',
]

"""Configs of the released CMT plugin (mmdet3d 1.0, mmcv 1.x) in today's form."""

from .convert import convert_config
from .report import ConversionReport

__all__ = ['ConversionReport', 'convert_config']

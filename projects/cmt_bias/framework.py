"""Whether the detection framework is there: without it, ``ops`` and the maths of ``bias`` are."""

from importlib.util import find_spec

HAS_MMDET3D = find_spec('mmdet3d') is not None
"""A framework that is there but cannot be imported is an error, not an absence."""

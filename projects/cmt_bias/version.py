"""Version of the distribution `cmt-bias`."""

__version__ = '0.1.0'

"""The learned scale over a run: one hook that records it, says what is odd, and draws it."""

from .hook import BiasScaleHook

__all__ = ['BiasScaleHook']

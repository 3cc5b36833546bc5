"""Look a model's heads with an attention bias up, and what they are called for users."""

from dataclasses import dataclass
from typing import cast

from torch import nn

from ..unwrapping import unwrapped
from .scale import BiasScale


@dataclass(frozen=True)
class BiasedHead:
    """A head with ``attention_bias_generator`` and ``weight_generator``, and its dotted name."""

    name: str
    head: nn.Module

    @property
    def generator(self) -> BiasScale:
        """The head's ``AttentionBiasGenerator``."""
        return cast(BiasScale, self.head.attention_bias_generator)

    @property
    def weight_generator(self) -> nn.Module:
        """The module that returns the weights, two tensors ``(B, Q)``: LiDAR, camera."""
        return self.head.get_submodule('weight_generator')

    @property
    def scale_name(self) -> str:
        """Name of the bias scale in the model's state dict."""
        return f'{self.name}.attention_bias_generator.bias_scale'.lstrip('.')

    @property
    def config(self) -> str:
        """Where ``attention_bias_config`` is, as ``--cfg-options`` takes it."""
        return f'model.{self.name}.attention_bias_config'.replace('..', '.')


def biased_heads(model: nn.Module) -> list[BiasedHead]:
    """All heads with an ``attention_bias_generator``, named as in the unwrapped model."""
    return [
        BiasedHead(name, module)
        for name, module in unwrapped(model).named_modules()
        if isinstance(getattr(module, 'attention_bias_generator', None), nn.Module)
    ]


def find_biased_head(model: nn.Module, wanted_by: str) -> BiasedHead:
    """Find the one head with an attention bias, for a hook named ``wanted_by``.

    Raises:
        ValueError: If there is no such head, or more than one.
    """
    found = biased_heads(model)
    if len(found) != 1:
        names = ', '.join(head.name for head in found) or 'none'
        raise ValueError(
            f'{wanted_by} needs one head with an attention bias, the model has: {names}. Set '
            "pts_bbox_head=dict(type='AttentionBiasCmtHead', attention_bias_config=dict(...), "
            f'...), or take {wanted_by} out of custom_hooks.'
        )
    return found[0]

"""Kernels of sparse convolutions, read from files of every layout.

spconv 2 keeps a kernel as ``(out, *size, in)``, spconv 1 and mmcv as ``(*size, in, out)``. mmdet3d
goes by the version that modules write beside their weights, and where it is lost (a file saved
anew by a script, or averaged) takes the kernel for one of spconv 1. Importing this module lets the
shapes decide.
"""

from collections.abc import Mapping
from typing import Any

from mmdet3d.models.layers.spconv import IS_SPCONV2_AVAILABLE
from torch import Tensor, nn

from .safe_loading import CheckpointError

if IS_SPCONV2_AVAILABLE:
    from spconv.pytorch.modules import SparseModule
else:
    from mmcv.ops.sparse_modules import SparseModule

_OWN_VERSION = 2 if IS_SPCONV2_AVAILABLE else 1


def kernels_in_own_layout(
    module: nn.Module, path: str, weights: Mapping[str, Any], version: Any
) -> dict[str, Tensor]:
    """Views of the kernels that weights have for a module, in the installed library's layout.

    One that fits in no layout stays as it is. ``version`` is what the weights say of the module at
    this ``path``: 2 is spconv 2's layout, 1 is spconv 1's and mmcv's. CheckpointError if both
    layouts fit and they do not say.
    """
    kernels = {}
    for key, parameter in module.named_parameters(path, recurse=False):
        stored = weights.get(key)
        if not isinstance(stored, Tensor) or parameter.dim() <= 2:
            continue
        moved = stored.movedim(-1, 0) if _OWN_VERSION == 2 else stored.movedim(0, -1)
        layouts = {_OWN_VERSION: stored, 3 - _OWN_VERSION: moved}
        fitting = {layout: k for layout, k in layouts.items() if k.shape == parameter.shape}
        if len(fitting) > 1 and version not in fitting:
            raise CheckpointError(
                f"the kernel '{key}' of shape {tuple(stored.shape)} may have its output channels "
                'first (spconv 2) or last (spconv 1, mmcv), and its file does not say which. '
                f"Remedy: load it in python, set state_dict._metadata = {{'{path}': "
                "{'version': 2}} (or 1) and save it again"
            )
        kernels[key] = fitting.get(version, next(iter(fitting.values()), stored))
    return kernels


# mmdet3d's own, or that of torch.
_load_own_layout = SparseModule._load_from_state_dict


def _load_any_layout(
    self: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict, *rest: Any
) -> None:
    """torch's method by which a module reads its weights."""
    kernels = kernels_in_own_layout(self, prefix[:-1], state_dict, local_metadata.get('version'))
    own_metadata = {**local_metadata, 'version': _OWN_VERSION}
    _load_own_layout(self, {**state_dict, **kernels}, prefix, own_metadata, *rest)


SparseModule._load_from_state_dict = _load_any_layout

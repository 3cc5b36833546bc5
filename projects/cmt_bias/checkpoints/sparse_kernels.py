"""Kernels of sparse convolutions, read from files of every layout.

spconv 2 keeps a kernel as ``(out, *size, in)``, spconv 1 and mmcv as ``(*size, in, out)``. mmdet3d
goes by the version that modules write beside their weights, and where it is lost (a file saved
anew by a script, or averaged) takes the kernel for one of spconv 1. Importing this module lets the
shapes decide.
"""

from typing import Any

from mmdet3d.models.layers.spconv import IS_SPCONV2_AVAILABLE
from torch import Size, Tensor, nn

from .safe_loading import CheckpointError

if IS_SPCONV2_AVAILABLE:
    from spconv.pytorch.modules import SparseModule
else:
    from mmcv.ops.sparse_modules import SparseModule

_OWN_VERSION = 2 if IS_SPCONV2_AVAILABLE else 1


def in_own_layout(stored: Tensor, wanted: Size, version: int | None, name: str) -> Tensor:
    """A view of a stored kernel with its axes in the order of the installed library.

    It is of another shape than ``wanted``, the model's, if no layout fits. ``version`` is what the
    file says of its layout: 2 is spconv 2's, 1 is spconv 1's and mmcv's.

    Raises:
        CheckpointError: If both layouts fit and the file does not say which it is.
    """
    moved = stored.movedim(-1, 0) if _OWN_VERSION == 2 else stored.movedim(0, -1)
    fits, fits_moved = stored.shape == wanted, moved.shape == wanted
    if not (fits and fits_moved):
        return moved if fits_moved else stored
    if version not in (1, 2):
        raise CheckpointError(
            f"the kernel '{name}' of shape {tuple(wanted)} may have its output channels first "
            '(spconv 2) or last (spconv 1, mmcv), and its file does not say which. Remedy: load '
            f"it in python, set state_dict._metadata = {{'{name.rpartition('.')[0]}': "
            "{'version': 2}} (or 1) and save it again"
        )
    return stored if version == _OWN_VERSION else moved


# mmdet3d's own, or that of torch.
_load_own_layout = SparseModule._load_from_state_dict


def _load_any_layout(
    self: nn.Module, state_dict: dict[str, Any], prefix: str, local_metadata: dict, *rest: Any
) -> None:
    """torch's method by which a module reads its weights."""
    version = local_metadata.get('version')
    fitted = dict(state_dict)
    for name, parameter in self.named_parameters(recurse=False):
        stored = state_dict.get(prefix + name)
        if isinstance(stored, Tensor) and parameter.dim() > 2:
            fitted[prefix + name] = in_own_layout(stored, parameter.shape, version, prefix + name)
    own_metadata = {**local_metadata, 'version': _OWN_VERSION}
    _load_own_layout(self, fitted, prefix, own_metadata, *rest)


SparseModule._load_from_state_dict = _load_any_layout

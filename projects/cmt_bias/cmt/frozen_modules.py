"""Parts of a model that are frozen from the moment it is built.

No hook can do this: mmengine's runner wraps the model for distributed training, which would wait
for gradients that never come, and builds the optimizer before it calls the first one.
"""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from torch.nn.modules.batchnorm import _BatchNorm

Model = TypeVar('Model', bound='FrozenModulesMixin')


class FrozenModulesMixin:
    """Adds frozen parts to a model class: ``class MyDetector(FrozenModulesMixin, Base)``.

    A frozen part has no gradients and no optimizer state, and stays in evaluation mode; it is
    saved and loaded like any other. Of parts with frozen statistics the batch normalization alone
    stays in evaluation mode: a batch of two samples, or one in which a sensor fails, has not the
    statistics of the data.
    """

    frozen_modules: tuple[str, ...] = ()
    frozen_statistics: tuple[str, ...] = ()

    def freeze(self: Any, modules: Sequence[str] = (), statistics: Sequence[str] = ()) -> None:
        """Freeze parts for good; to be called at the end of the model's ``__init__``.

        Both are dotted names, such as ``img_backbone`` or ``pts_bbox_head.shared_conv``, each with
        all that is in it: of what does not train, and of what keeps the statistics that it has.

        Raises:
            ValueError: If a name is not that of a module; it names those that are similar.
        """
        known = [name for name, _ in self.named_modules() if name]
        for key, names in dict(frozen_modules=modules, frozen_statistics=statistics).items():
            if isinstance(names, str):
                raise ValueError(f"{key} is a list of names: write {key}=['{names}']")
            for name in names:
                if name not in known:
                    similar = get_close_matches(name, known, n=3)
                    there = "', '".join(similar or [child for child, _ in self.named_children()])
                    own = type(self).__name__
                    raise ValueError(f"{key}: '{name}' is no module of {own}; there is '{there}'")
        self.frozen_modules, self.frozen_statistics = tuple(modules), tuple(statistics)
        for name in modules:
            self.get_submodule(name).requires_grad_(False)
        self.train(self.training)

    def train(self: Model, mode: bool = True) -> Model:
        """Put the model into training (or evaluation) mode, its frozen parts excepted."""
        super().train(mode)  # type: ignore[misc]  # of the module class this is mixed into
        model: Any = self
        for name in self.frozen_modules:
            model.get_submodule(name).eval()
        for name in self.frozen_statistics:
            for module in model.get_submodule(name).modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

"""What became of the keys of a converted config."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..cmt.config_keys import accepted_arguments


@dataclass
class ConversionReport:
    """Keys of an old config, by their dotted names, and what became of them.

    Attributes:
        changed: Key, and what stands for it now.
        lost: Key without a counterpart, and why, or what to do.
        added: Key that the old config did not have, and why.
    """

    changed: dict[str, str] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)
    added: dict[str, str] = field(default_factory=dict)

    def lose(
        self,
        key: str,
        rest: Mapping,
        why: str = 'not converted; look for what stands for it by hand',
    ) -> None:
        """Name what is set below ``key`` as lost."""
        self.lost.update({f'{key}.{name}': why for name in rest if rest[name] is not None})

    def keep_accepted(self, part: dict, cls: type | None, path: str) -> dict:
        """What the class of a part of a config takes of it; all of it if there is no class."""
        name = part['type']
        if cls is None:
            self.lost[f'{path}.type'] = f'no class {name} here; kept, register one of your own'
            return part
        known = accepted_arguments(cls)
        kept = {key: part[key] for key in part if known is None or key in {'type', *known}}
        rest = {key: part[key] for key in part if key not in kept}
        self.lose(path, rest, f'{name} has no such argument')
        return kept

    def __str__(self) -> str:
        parts = {'Changed': self.changed, 'No counterpart': self.lost, 'Added': self.added}
        lines = []
        for title, rows in parts.items():
            lines.append(f'{title} ({len(rows)}):')
            lines += [f'  {key}: {text}' for key, text in rows.items()]
        return '\n'.join(lines)

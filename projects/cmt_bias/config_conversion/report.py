"""What became of the keys of a converted config."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


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

    def lose_others(
        self,
        key: str,
        given: Mapping,
        known: Collection[str],
        why: str = 'not converted; look for what stands for it by hand',
    ) -> None:
        """Name what is set below ``key`` and not known as lost."""
        for name, value in given.items():
            if name not in known and value is not None:
                self.lost[f'{key}.{name}'] = why

    def __str__(self) -> str:
        parts = {'Changed': self.changed, 'No counterpart': self.lost, 'Added': self.added}
        lines = []
        for title, rows in parts.items():
            lines.append(f'{title} ({len(rows)}):')
            lines += [f'  {key}: {text}' for key, text in rows.items()]
        return '\n'.join(lines)

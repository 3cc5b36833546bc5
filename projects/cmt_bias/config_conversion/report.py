"""What became of the keys of a converted config."""

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

    def __str__(self) -> str:
        parts = {'Changed': self.changed, 'No counterpart': self.lost, 'Added': self.added}
        lines = []
        for title, rows in parts.items():
            lines.append(f'{title} ({len(rows)}):')
            lines += [f'  {key}: {text}' for key, text in rows.items()]
        return '\n'.join(lines)

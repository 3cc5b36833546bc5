"""A problem found before it does harm, with what mends it: what every check answers with.

Needs the standard library alone, so that ``tools/doctor.py`` can load it where nothing else works.
"""

from dataclasses import dataclass
from typing import Literal

Severity = Literal['error', 'warning', 'note']


@dataclass(frozen=True)
class Problem:
    """What is wrong, naming the file, key or version, and the command or setting that mends it.

    An 'error': a run cannot work; a 'warning': some uses of it fail; a 'note': worth knowing.
    """

    what: str
    remedy: str = ''
    severity: Severity = 'error'

    @classmethod
    def of_error(cls, error: Exception, remedy: str = '') -> 'Problem':
        """What an error says; its message may name a remedy of its own behind 'Remedy: '."""
        what, _, own_remedy = str(error).partition('Remedy: ')
        return cls(what.strip(), own_remedy or remedy)

    def __str__(self) -> str:
        return f'{self.what}\n  remedy: {self.remedy}' if self.remedy else self.what

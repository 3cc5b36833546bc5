"""A problem found before it does harm, with what mends it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with the environment, the data or a config.

    Attributes:
        what: What is wrong, naming the file, key or version.
        remedy: What to do about it: a command to run or a setting to change.
    """

    what: str
    remedy: str

    def __str__(self) -> str:
        return f'{self.what}\n  remedy: {self.remedy}'

"""Find the checkpoint to resume from, also after a crash."""

import logging
import os.path as osp
import re
import string
from pathlib import Path

from mmengine.hooks import CheckpointHook
from mmengine.logging import print_log

from .safe_loading import CheckpointError, load_checkpoint_safely

LAST_CHECKPOINT_FILE = 'last_checkpoint'  # mmengine's name for the file that names the newest


def _find_damage(path: Path) -> str | None:
    """Read a checkpoint, all of it, and say why it cannot be used; None if it can."""
    try:
        load_checkpoint_safely(path)
    except (CheckpointError, OSError) as error:
        return str(error)
    return None


def is_intact_checkpoint(path: Path) -> bool:
    """Whether a checkpoint can be read, all of it, and has no NaN in it."""
    return _find_damage(path) is None


def saves_locally(hook: CheckpointHook) -> bool:
    """Whether a hook writes checkpoints to the file system."""
    local = (None, {'backend': 'local'}, {'backend': 'atomic_local'})
    return '://' not in str(hook.out_dir or '') and hook.backend_args in local


def checkpoint_folder(hook: CheckpointHook, work_dir: str) -> str:
    """Where a hook will write a run's checkpoints; to be asked before training begins."""
    if hook.out_dir is None or hook.out_dir == work_dir:
        return work_dir
    return osp.join(hook.out_dir, osp.basename(work_dir.rstrip(osp.sep)))


def find_checkpoint_to_resume(hook: CheckpointHook, work_dir: str) -> str | None:
    """Find the newest checkpoint that a hook, whose folder and names count, wrote for a run.

    Raises:
        CheckpointError: If there are checkpoints, but none that can be used.
    """
    if saves_locally(hook):
        folder = checkpoint_folder(hook, work_dir)
        return find_latest_intact_checkpoint(work_dir, folder, hook.filename_tmpl)
    return _named_checkpoint(work_dir) or None


def find_latest_intact_checkpoint(
    work_dir: str | Path,
    checkpoint_dir: str | Path | None = None,
    filename_tmpl: str = 'epoch_{}.pth',
) -> str | None:
    """Find the newest checkpoint of a run that can be read; None if it has no checkpoints.

    That is the one which `last_checkpoint` names, or else that with the highest number, and a
    warning says so. Checkpoints of a run are the files in its folder alone: `last_checkpoint`
    holds a whole path, which after a folder was renamed leads to another run.

    Args:
        work_dir: Folder of the run, with `last_checkpoint` in it.
        checkpoint_dir: Folder with the checkpoints; by default `work_dir`.
        filename_tmpl: Their name, with `{}`, or such as `{:03d}`, for the number of the epoch or
            iteration.

    Raises:
        CheckpointError: If the run has checkpoints, but none that can be used: training from the
            start would replace them.
    """
    folder, pointed = Path(checkpoint_dir or work_dir), Path(_named_checkpoint(work_dir)).name
    pieces = string.Formatter().parse(filename_tmpl)
    number = r'(\d+)'
    pattern = ''.join(re.escape(text) + number * (field is not None) for text, field, *_ in pieces)
    numbers = {path: re.fullmatch(pattern, path.name) for path in folder.glob('*')}
    numbered = {path: int(match[1]) for path, match in numbers.items() if match}
    named = [folder / pointed] if pointed else []
    unusable: dict[Path, str] = {}
    for path in dict.fromkeys([*named, *sorted(numbered, key=numbered.__getitem__, reverse=True)]):
        damage = _find_damage(path)
        if damage is None:
            if path not in named:
                reason = f"'{LAST_CHECKPOINT_FILE}' of '{work_dir}' is missing or empty"
                print_log(
                    f'{unusable[named[0]] if named else reason}; the newest intact checkpoint, '
                    f"'{path}', is taken instead.",
                    logger='current',
                    level=logging.WARNING,
                )
            return str(path)
        unusable[path] = damage
    for path in sorted(set(folder.glob('*.pth')) - unusable.keys()):
        unusable[path] = (
            f"'{path}' is not named as the config names checkpoints ('{filename_tmpl}')"
        )
    if not unusable:
        return None
    raise CheckpointError(
        '\n  '.join([f"'{folder}' has checkpoints, but none to resume from:", *unusable.values()])
        + '\nRemedy: resume from one that you name, or train in another work_dir'
    )


def _named_checkpoint(work_dir: str | Path) -> str:
    """The path that `last_checkpoint` holds; empty if there is none."""
    pointer = Path(work_dir) / LAST_CHECKPOINT_FILE
    return pointer.read_text(errors='replace').strip() if pointer.is_file() else ''

"""Find the checkpoint to resume from, also after a crash."""

import os.path as osp
import re
import string
from pathlib import Path

from mmengine.hooks import CheckpointHook
from mmengine.logging import MMLogger

from .safe_loading import CheckpointError, load_checkpoint_safely


def is_intact_checkpoint(path: Path) -> bool:
    """Whether a checkpoint can be read, all of it, and has no NaN in it."""
    try:
        load_checkpoint_safely(path)
    except CheckpointError:
        return False
    return True


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
    """Find the newest checkpoint of a run that can be read; None if it has no checkpoints.

    That is the one which mmengine's `last_checkpoint` in `work_dir` names, or else, with a
    warning, that with the highest number, in the folder and by the template of the hook. Only
    files there count: `last_checkpoint` holds a whole path, which after a folder was renamed leads
    to another run.

    Raises:
        CheckpointError: If there are checkpoints, but none that can be used: training from the
            start would replace them.
    """
    pointer = Path(work_dir) / 'last_checkpoint'
    named = pointer.read_text(errors='replace').strip() if pointer.is_file() else ''
    if not saves_locally(hook):
        return named or None
    folder, filename_tmpl = Path(checkpoint_folder(hook, work_dir)), hook.filename_tmpl
    pieces, number = string.Formatter().parse(filename_tmpl), r'(\d+)'
    pattern = ''.join(re.escape(text) + number * (field is not None) for text, field, *_ in pieces)
    matches = (re.fullmatch(pattern, path.name) for path in folder.glob('*'))
    numbers = {folder / match[0]: int(match[1]) for match in matches if match}
    candidates = sorted(numbers, key=numbers.__getitem__, reverse=True)
    if named:
        candidates.insert(0, folder / Path(named).name)
    passed_over = [] if named else [f"'{pointer}' is missing or empty"]
    for path in dict.fromkeys(candidates):
        try:
            load_checkpoint_safely(path)
        except CheckpointError as error:
            passed_over.append(str(error))
            continue
        if passed_over:
            MMLogger.get_current_instance().warning(
                f"{passed_over[0]}; the newest intact checkpoint, '{path}', is taken instead."
            )
        return str(path)
    others = sorted(set(folder.glob('*.pth')) - set(candidates))
    if not (candidates or others):
        return None
    rule = f"is not named as the config names checkpoints ('{filename_tmpl}')"
    listed = '\n  '.join([*passed_over, *(f"'{path}' {rule}" for path in others)])
    raise CheckpointError(
        f"'{folder}' has checkpoints, but none to resume from:\n  {listed}\n"
        'Remedy: resume from one that you name, or train in another work_dir'
    )

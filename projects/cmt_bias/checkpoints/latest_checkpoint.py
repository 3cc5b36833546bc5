"""Find the checkpoint to resume from, also after a crash."""

import logging
import re
import zipfile
from pathlib import Path

from mmengine.logging import print_log

LAST_CHECKPOINT_FILE = 'last_checkpoint'  # mmengine's name for the file that names the newest


def is_intact_checkpoint(path: Path) -> bool:
    """Tell whether a file is a complete archive of torch.save.

    The table of contents is at the end of the archive, so a truncated file has none. The data is
    not read: this takes the same short time for every size.
    """
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith('data.pkl') for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def find_latest_intact_checkpoint(
    work_dir: str | Path,
    checkpoint_dir: str | Path | None = None,
    filename_tmpl: str = 'epoch_{}.pth',
) -> str | None:
    """Find the newest complete checkpoint of a run.

    That is the one which `last_checkpoint` names. Where this file is missing or damaged, or names
    a file that is missing or incomplete, it is the complete checkpoint with the highest number,
    and a warning says so.

    Args:
        work_dir: Folder of the run, with `last_checkpoint` in it.
        checkpoint_dir: Folder with the checkpoints; by default `work_dir`.
        filename_tmpl: Their name, with `{}` for the number of the epoch or iteration.

    Returns:
        Path of the checkpoint, None if the run has none.
    """
    pointer = Path(work_dir) / LAST_CHECKPOINT_FILE
    named = pointer.read_text(errors='replace').strip() if pointer.is_file() else ''
    if named and is_intact_checkpoint(Path(named)):
        return named
    candidates = _numbered_checkpoints(Path(checkpoint_dir or work_dir), filename_tmpl)
    if not named and not candidates:
        return None
    intact = next((path for path in candidates if is_intact_checkpoint(path)), None)
    complaint = (
        f"the checkpoint '{named}', which '{pointer}' names, is missing or incomplete"
        if named
        else f"'{pointer}' is missing or empty"
    )
    outcome = (
        f"the newest intact checkpoint, '{intact}', is taken instead"
        if intact
        else 'there is no other intact checkpoint'
    )
    print_log(f'{complaint}; {outcome}.', logger='current', level=logging.WARNING)
    return str(intact) if intact else None


def _numbered_checkpoints(directory: Path, filename_tmpl: str) -> list[Path]:
    """Checkpoints in a folder, the highest number first."""
    pattern = re.compile(r'(\d+)'.join(re.escape(part) for part in filename_tmpl.split('{}')))
    numbered = [
        (int(match.group(1)), path)
        for path in (directory.iterdir() if directory.is_dir() else ())
        if (match := pattern.fullmatch(path.name))
    ]
    return [path for _, path in sorted(numbered, reverse=True)]

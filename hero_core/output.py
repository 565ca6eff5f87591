# SPDX-License-Identifier: GPL-3.0-or-later
"""Files that appear whole or not at all, and a look at the place before the long work that fills them."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from .errors import HeroError


def check_output(path: str | os.PathLike[str], suffix: str) -> Path:
    """The path, if a file with that suffix can be written there; raises HeroError otherwise."""
    target = Path(path)
    if target.suffix.lower() != suffix:
        raise HeroError(f"The output must end in {suffix}, not '{target.name}'.")
    if target.is_dir():
        raise HeroError(f"The output '{target}' is a folder; give the name of a file in it.")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise HeroError(f"There is no folder '{folder}' for the output; make it or choose another.")
    try:
        with tempfile.TemporaryFile(dir=folder):  # permission bits do not tell of read-only disks
            pass
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(13, "the file is write-protected")
    except OSError as err:
        raise HeroError(f"'{target}' cannot be written ({err.strerror}); choose another folder.") from err
    return target


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A name beside the target to write to; it becomes the target at the end, or is removed after an error."""
    part = target.with_name(f".{target.stem}.{os.getpid()}.part{target.suffix}")
    try:
        yield part
        part.replace(target)
    except OSError as err:
        raise HeroError(f"'{target}' cannot be written ({err.strerror or err}); choose another folder.") from err
    finally:
        part.unlink(missing_ok=True)

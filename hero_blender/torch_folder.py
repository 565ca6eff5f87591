# SPDX-License-Identifier: GPL-3.0-or-later
"""Where PyTorch is: in Blender's Python (the full zip), in a folder of the user's choice, or where HERO installed it.

The lite zip has none: it is far larger than everything else, and the right one depends on the graphics card. Its
folder comes last on ``sys.path``, and only when it is needed: Blender's own numpy stays the first, and Blender starts
as fast as before.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib.machinery
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import bpy

from hero_core.errors import HeroError

from . import user_files
from .job import Worker

MISSING = (
    "PyTorch is not installed in Blender's Python; choose Install PyTorch, or the folder that holds it, in the "
    "preferences of HERO."
)
_dll_folders: list[Any] = []


def root() -> Path:
    """The folder of the installations that HERO makes."""
    return user_files.home() / "torch"


def installed() -> Path | None:
    """The newest installation of ours for this Python; None if there is none, or it is to be removed."""
    tag = user_files.python_tag()
    found = [folder for folder in user_files.complete(root()) if user_files.about(folder).get("python") == tag]
    return found[0] if found else None


@functools.cache
def find(chosen: str = "") -> Path | None:
    """The folder that holds torch: Python's own, the chosen one, or HERO's; None if no place has it.

    The answer is remembered, for panels ask at each redraw; ``find.cache_clear()`` looks again.
    """
    spec = importlib.util.find_spec("torch")
    if spec is not None and spec.origin is not None:
        return Path(spec.origin).parents[1]
    for folder in (Path(bpy.path.abspath(chosen)) if chosen else None, installed()):
        if folder is not None and (folder / "torch" / "__init__.py").is_file():
            return folder
    return None


def check(folder: Path) -> None:
    """Raises HeroError where the torch of a folder is for another Python than Blender's, or there is none."""
    package = folder / "torch"
    if not (package / "__init__.py").is_file():
        raise HeroError(f"'{folder}' holds no folder 'torch'; choose the site-packages of a Python that has PyTorch.")
    compiled = [path.name for path in package.glob("_C.*") if path.suffix in {".so", ".pyd"}]
    fitting = {f"_C{ending}" for ending in importlib.machinery.EXTENSION_SUFFIXES}
    if compiled and not fitting & set(compiled):
        raise HeroError(
            f"The PyTorch in '{folder}' is for another Python ({compiled[0]}); Blender needs one for Python "
            f"{sys.version_info.major}.{sys.version_info.minor} on this system."
        )


def make_importable(chosen: str = "") -> None:
    """Let ``import torch`` work. For the main thread.

    Raises HeroError where torch is nowhere, or is for another Python.
    """
    if "torch" in sys.modules:
        return
    find.cache_clear()
    folder = find(chosen)
    if folder is None:
        raise HeroError(MISSING)
    if importlib.util.find_spec("torch") is None:
        check(folder)
        user_files.use(folder)
        sys.path.append(str(folder))
        libraries = folder / "torch" / "lib"
        if os.name == "nt" and libraries.is_dir():
            _dll_folders.append(os.add_dll_directory(str(libraries)))  # type: ignore[attr-defined, unused-ignore]


def load() -> None:
    """Import torch, which takes seconds the first time. May run in any thread, after ``make_importable``.

    Raises HeroError where its libraries cannot be loaded.
    """
    # Its threads that wait are to sleep: spinning, as is usual, they take the cores from Blender, and beside other busy
    # programs they are ten times slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    os.environ.setdefault("KMP_BLOCKTIME", "0")
    if "torch" not in sys.modules:
        _load_libraries()
    try:
        import torch  # noqa: F401
    except (ImportError, OSError) as err:
        reason = str(err).splitlines()[0] if str(err) else type(err).__name__
        raise HeroError(
            f"PyTorch cannot be loaded ({reason}); remove it in the preferences of HERO and install it again, and "
            "start Blender anew."
        ) from err


def _load_libraries() -> None:
    """Load PyTorch's libraries without holding Python's lock, as an import does: Blender would stand still meanwhile.

    What cannot be loaded here is left to the import, which tells why. On Windows PyTorch itself does it like this.
    """
    spec = importlib.util.find_spec("torch")
    if os.name == "nt" or spec is None or spec.origin is None:
        return
    # The system loads one library at a time: who reads the clip meanwhile must not wait for that with the lock in hand.
    with contextlib.suppress(ImportError):
        import av.subtitles.stream  # noqa: F401  which PyAV imports with the first file
    open_library = ctypes.CDLL(None).dlopen  # ctypes gives the lock back for calls, but not in CDLL itself
    open_library.argtypes, open_library.restype = [ctypes.c_char_p, ctypes.c_int], ctypes.c_void_p
    ending = "dylib" if sys.platform == "darwin" else "so"
    for name in ("torch_cpu", "torch_cuda", "torch_python"):
        library = Path(spec.origin).parent / "lib" / f"lib{name}.{ending}"
        if library.is_file():
            open_library(os.fsencode(library), os.RTLD_NOW | os.RTLD_LOCAL)


def why_processor() -> str:
    """Why the processor computes although there is a graphics card; "" where it does not, or nothing was tried yet."""
    device = sys.modules.get("hero_core.device")
    return "; ".join(f"{name}: {why}" for name, why in device.unusable.items()) if device else ""


def remove() -> Path:
    """Mark our installation for removal at the next start; returns its folder. Raises HeroError if there is none."""
    folder = installed()
    if folder is None:
        raise HeroError("HERO installed no PyTorch here, so there is nothing to remove.")
    user_files.remove_at_next_start(folder, root())
    find.cache_clear()
    return folder


def clean_up() -> None:
    """At the start, before anything of them is loaded: delete, in a thread, what was marked or left unfinished."""
    roots = [folder for folder in (root(), user_files.home() / "weights") if user_files.to_clean(folder)]
    if roots:
        Worker(lambda _: [user_files.clean(folder) for folder in roots])

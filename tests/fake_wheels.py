# SPDX-License-Identifier: GPL-3.0-or-later
"""Wheels of a few bytes that pip installs like real ones: a 'torch' that can sum a product, and what it needs."""

from __future__ import annotations

import base64
import hashlib
import zipfile
from pathlib import Path

TORCH = """
__version__ = "{version}"


class ones:
    def __init__(self, rows, columns):
        self.value = float(rows * columns)

    def __matmul__(self, other):
        return ones(self.value * 4, 1)

    def sum(self):
        return self.value
"""


def write_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    files: dict[str, str] | None = None,
    requires: tuple[str, ...] = (),
    tag: str = "py3-none-any",
    meta: str = "License-Expression: MIT\n",
) -> Path:
    """A wheel with these files; ``requires`` as in its metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {need}\n" for need in requires)
    content = {
        **({f"{name}/__init__.py": f'__version__ = "{version}"\n'} if files is None else files),
        f"{info}/METADATA": f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n{meta}{needs}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    record = ""
    for path, text in content.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{path},sha256={digest},{len(text.encode())}\n"
    content[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
    wheel = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in content.items():
            archive.writestr(zipfile.ZipInfo(path, (2026, 1, 1, 0, 0, 0)), text)
    return wheel


def write_torch(folder: Path, version: str = "9.1", code: str = TORCH, requires: tuple[str, ...] = ("pure",)) -> Path:
    """A torch wheel and the package that it needs, in ``folder``; returns torch's."""
    write_wheel(folder, "pure")
    return write_wheel(folder, "torch", version, {"torch/__init__.py": code.format(version=version)}, requires)

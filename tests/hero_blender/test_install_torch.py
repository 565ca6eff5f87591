# SPDX-License-Identifier: GPL-3.0-or-later
"""The installer with real pip and wheels of a few bytes: what it installs and refuses, and that nothing is left."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fake_wheels import TORCH, write_torch, write_wheel

from hero_blender import install_torch, user_files
from hero_blender.install_torch import Choice, Installation
from hero_core.errors import Cancelled, HeroError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    write_torch(tmp_path / "wheels")
    return tmp_path / "wheels"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "user" / "torch"


def installation(root: Path, wheels: Path | str, kind: str = "cpu", online: bool = False, **more: str) -> Installation:
    return Installation(Choice(kind, str(wheels) if wheels else "", **more), root, np.__version__, online)


def left(root: Path) -> set[str]:
    """What lies in the folder beside the lock and the log."""
    return {path.name for path in root.iterdir()} - {"install.lock", "install.log"} if root.exists() else set()


def test_from_a_folder_of_wheels_without_network(root: Path, wheels: Path) -> None:
    seen: list[tuple[int, int]] = []
    work = installation(root, wheels)
    folder = work.run(lambda done, total: bool(seen.append((done, total)) or True))
    assert folder.name == f"{user_files.python_tag()}-cpu-9.1" and folder.parent == root
    assert (folder / "torch" / "__init__.py").is_file() and (folder / "pure").is_dir()
    known = user_files.about(folder)
    assert (known["kind"], known["torch"], known["python"]) == ("cpu", "9.1", user_files.python_tag())
    assert left(root) == {folder.name}
    assert {path.name for path in folder.iterdir()} >= {"torch", "pure", "hero.json"}
    assert not {"tmp", "cache", "site", "constraints.txt", "output.txt"} & {path.name for path in folder.iterdir()}
    assert seen and all(0 <= done <= total for done, total in seen)
    assert work.stage == "Done" and "torch" in work.log.read_text()


def test_numpy_is_blenders(root: Path, tmp_path: Path) -> None:
    """A torch that wants another numpy is refused; one that wants any gets none of its own."""
    write_torch(tmp_path / "bad", requires=("numpy>99",))
    write_wheel(tmp_path / "bad", "numpy", "100.0")
    with pytest.raises(HeroError, match=r"pip ended with|There is no numpy"):
        installation(root, tmp_path / "bad").run()
    assert left(root) == set()
    write_torch(tmp_path / "good", requires=("numpy",))
    write_wheel(tmp_path / "good", "numpy", np.__version__)
    folder = installation(root, tmp_path / "good").run()
    assert not list(folder.glob("numpy*"))


def test_a_new_one_takes_the_place_of_the_old_at_the_next_start(root: Path, wheels: Path, tmp_path: Path) -> None:
    old = installation(root, wheels).run()
    write_torch(tmp_path / "newer", "9.2")
    new = installation(root, tmp_path / "newer").run()
    assert user_files.complete(root) == [new] and old.is_dir()
    assert user_files.clean(root) == [old.name]
    assert left(root) == {new.name}


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda w: w.write_bytes(w.read_bytes()[:300]), "is damaged"),
        (lambda w: w.with_name("pure-1.0-py3-none-any.whl").unlink(), "There is no pure"),
    ],
)
def test_spoilt_wheels(root: Path, wheels: Path, spoil, says: str) -> None:  # type: ignore[no-untyped-def]
    spoil(next(wheels.glob("torch-*")))
    with pytest.raises(HeroError, match=says) as caught:
        installation(root, wheels).run()
    assert left(root) == set() and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "code", ["raise OSError('libcudart.so: cannot open shared object file')", TORCH.replace("* 4", "* 3")]
)
def test_a_torch_that_does_not_run_is_removed_again(root: Path, tmp_path: Path, code: str) -> None:
    """What was installed before stays what it was."""
    root.mkdir(parents=True)
    good = user_files.new_part(root)
    user_files.write_about(good, {"python": user_files.python_tag(), "time": 1.0})
    good = user_files.keep(good, "good")
    write_torch(tmp_path / "broken", code=code)
    with pytest.raises(HeroError, match=r"does not run here, so it was removed again: .*(libcudart|64)"):
        installation(root, tmp_path / "broken").run()
    assert left(root) == {"good"} and user_files.complete(root) == [good]


SLOW = "import time\ntime.sleep(600)\n"


def test_cancel_kills_the_process_and_leaves_nothing(root: Path, tmp_path: Path) -> None:
    write_torch(tmp_path / "slow", code=SLOW)
    work = installation(root, tmp_path / "slow")
    started = time.monotonic()
    with pytest.raises(Cancelled):
        work.run(lambda done, total: work.stage != "Trying it out")
    assert left(root) == set() and time.monotonic() - started < 60
    with pytest.raises(Cancelled):
        work.run(lambda done, total: False)
    assert left(root) == set()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_killed_pip_is_said(root: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = subprocess.Popen

    def start_and_kill(command, **more):  # type: ignore[no-untyped-def]
        process = real(command, **more)
        process.kill()
        return process

    monkeypatch.setattr(install_torch.subprocess, "Popen", start_and_kill)
    with pytest.raises(HeroError, match=r"ended from outside \(code -9\); start it again: nothing was changed"):
        installation(root, wheels).run()
    assert left(root) == set()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_what_a_killed_blender_left_is_cleaned_and_the_lock_is_free(root: Path, tmp_path: Path) -> None:
    note = tmp_path / "pid"
    write_torch(tmp_path / "slow", code=f"import os\nopen({str(note)!r}, 'w').write(str(os.getpid()))\n{SLOW}")
    code = (
        "import sys, numpy\nfrom pathlib import Path\n"
        "from hero_blender.install_torch import Choice, Installation\n"
        f"choice = Choice('cpu', {str(tmp_path / 'slow')!r})\n"
        f"work = Installation(choice, Path({str(root)!r}), numpy.__version__, False)\n"
        "work.run(lambda *_: print(work.stage, flush=True) or True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while not note.exists() or not note.read_text():
        assert process.stdout.readline(), "the installation ended"
    other = tmp_path / "wheels"
    write_torch(other)
    with pytest.raises(HeroError, match=r"Another Blender is installing PyTorch right now"):
        installation(root, other).run()
    assert user_files.clean(root) == []  # what is being made is left alone
    process.kill()
    process.wait()
    assert any(name.startswith(".part-") for name in left(root))
    folder = installation(root, other).run()
    assert left(root) == {folder.name}
    os.kill(int(note.read_text()), 9)  # the first step of torch, that sleeps on


@pytest.mark.skipif(os.name == "nt" or not hasattr(os, "geteuid"), reason="a read-only folder")
def test_a_folder_that_cannot_be_written(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "locked"
    root.mkdir(mode=0o555)
    if os.geteuid() == 0:  # root may write everywhere

        def refuse(self: Path, *_: object, **__: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(HeroError, match=r"cannot be written .Permission denied.; allow it"):
        installation(root, wheels).run()
    assert not list(root.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 300 kB, where the system lets a test make one."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(place)], capture_output=True, check=False
    ) if sys.platform == "linux" else None  # fmt: skip
    if mount is None or mount.returncode:
        pytest.skip("no disk can be mounted here")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(small_disk: Path, tmp_path: Path) -> None:
    write_wheel(tmp_path / "wheels", "pure", files={"pure/data.py": "#" * 1_000_000})
    write_wheel(tmp_path / "wheels", "torch", "9.1", {"torch/__init__.py": TORCH.format(version="9")}, ("pure",))
    root = small_disk / "torch"
    with pytest.raises(HeroError, match=r"[Tt]he disk .*is full; make room and install again: nothing was changed"):
        installation(root, tmp_path / "wheels").run()
    assert left(root) == set()
    (small_disk / "fill").write_bytes(b"0" * 4096)
    with pytest.raises(OSError, match=r"No space"), (small_disk / "fill").open("ab") as file:
        while True:
            file.write(b"0" * 65536)
            file.flush()
    with pytest.raises(HeroError, match=r"is full|cannot be written"):
        installation(root, tmp_path / "wheels").run()
    assert left(root) == set()


def test_too_little_space_is_said_before_anything_is_loaded(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_files.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 10**8}))
    monkeypatch.setattr(sys, "platform", "linux")
    with pytest.raises(HeroError, match=r"needs 12\.0 GB .* 0\.1 GB are free"):
        installation(root, "", "cuda", online=True).run()


# --- The network ---


def test_without_permission_nothing_goes_online(root: Path) -> None:
    with pytest.raises(HeroError, match=r"may not go online: allow it in Preferences > System"):
        installation(root, "", online=False)
    assert not root.exists()


class Handler(http.server.BaseHTTPRequestHandler):
    """A package index, and a proxy to it: absolute addresses come from clients that use a proxy."""

    folder: Path
    asked: list[str]

    def do_GET(self) -> None:
        self.asked.append(self.path)
        parts = self.path.rstrip("/").rsplit("/", 2)
        if parts[-1].endswith(".whl"):
            body, kind = (self.folder / parts[-1]).read_bytes(), "application/octet-stream"
        else:
            found = sorted(self.folder.glob(f"{parts[-1]}-*.whl"))
            body = "".join(f'<a href="/files/{w.name}">{w.name}</a>' for w in found).encode()
            kind = "text/html"
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(wheels: Path) -> Iterator[tuple[str, list[str]]]:
    """(host:port, what was asked)."""
    asked: list[str] = []
    handler = type("H", (Handler,), {"folder": wheels, "asked": asked})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()


@pytest.fixture
def pip_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine, and no patience."""
    for key in [key for key in os.environ if key.startswith("PIP_") or key.lower().endswith("_proxy")]:
        monkeypatch.delenv(key)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "1")
    monkeypatch.setenv("PIP_TIMEOUT", "5")
    monkeypatch.setattr(user_files, "check_space", lambda *_: None)


def test_behind_a_proxy(
    root: Path, server: tuple[str, list[str]], pip_alone: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A host that only the proxy can reach; pip's settings of the user that would spoil it do not count."""
    address, asked = server
    monkeypatch.setenv("PIP_TRUSTED_HOST", "wheels.invalid")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_TARGET", "/nowhere")
    index = "http://wheels.invalid/simple"
    folder = installation(root, "", online=True, index=index, proxy=f"http://{address}").run()
    assert (folder / "torch").is_dir()
    assert f"{index}/torch/" in asked and all(path.startswith("http://wheels.invalid/") for path in asked)


def test_no_network(root: Path, pip_alone: None) -> None:
    with pytest.raises(HeroError, match=r"there is no way to the package index. Check the network and the proxy"):
        installation(root, "", online=True, index="http://127.0.0.1:9/simple").run()
    assert left(root) == set()


def test_passwords_do_not_get_into_the_log(root: Path, pip_alone: None) -> None:
    work = installation(root, "", online=True, index="http://127.0.0.1:9/simple", proxy="http://me:secret@127.0.0.1:9")
    with pytest.raises(HeroError) as caught:
        work.run()
    assert "secret" not in work.log.read_text() and "secret" not in str(caught.value)


# --- Which build ---


@pytest.mark.parametrize(
    ("system", "kind", "index", "card", "expected"),
    [
        ("linux", "cuda", "", "", ""),
        ("win32", "cpu", "", "", ""),
        ("darwin", "mps", "", "", ""),
        ("linux", "cpu", "https://here/whl/", "", "https://here/whl/cpu"),
        ("win32", "cuda", "https://here/whl", "GeForce, 12.0, 580.1", "https://here/whl/cu128"),
        ("win32", "cuda", "https://here/whl", "GTX 1080, 6.1, 560.1", "https://here/whl/cu126"),
        ("win32", "cuda", "https://here/whl/cu999", "", "https://here/whl/cu999"),
        ("linux", "xpu", "https://here/whl", "", "https://here/whl/xpu"),
        ("linux", "cuda", "https://mirror/simple", "", "https://mirror/simple"),
    ],
)
def test_index(
    system: str, kind: str, index: str, card: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(install_torch, "PYTORCH_INDEX", "")
    assert install_torch.index_of(Choice(kind, index=index), card) == expected


def test_a_build_that_needs_another_index_says_so(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_torch, "PYTORCH_INDEX", "")
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(HeroError, match=r"copy the address after --index-url"):
        install_torch.index_of(Choice("cuda"))
    with pytest.raises(HeroError, match=r"choose one of cpu, mps, cuda, rocm, xpu"):
        Installation(Choice("abacus"), root, "1", True)
    with pytest.raises(HeroError, match=r"holds no wheels"):
        Installation(Choice("cpu", wheels=str(root)), root, "1", True)


def test_the_machine_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    look = install_torch.recommended.__wrapped__
    monkeypatch.setattr(sys, "platform", "linux")
    for found, vendors, xe, expected in (
        ("RTX, 8.6, 550", set(), False, "cuda"),
        ("", {"0x10de"}, False, "cuda"),
        (None, {"0x8086"}, True, "xpu"),
        (None, {"0x8086"}, False, "cpu"),
        (None, set(), False, "cpu"),
    ):
        monkeypatch.setattr(install_torch, "_nvidia", lambda found=found: found)
        monkeypatch.setattr(install_torch, "_graphics_vendors", lambda vendors=vendors: vendors)
        monkeypatch.setattr(install_torch, "_has_module", lambda _, xe=xe: xe)
        kind, why = look()
        assert kind == expected and why
    monkeypatch.setattr(sys, "platform", "darwin")
    assert look()[0] == "mps"


def test_a_python_without_pip_borrows_the_one_of_ensurepip(
    root: Path, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pip runs out of its wheel then; Blender's Python gets nothing new."""
    pytest.importorskip("ensurepip")
    monkeypatch.setattr(install_torch.importlib.util, "find_spec", lambda name: None)
    environment = install_torch.pip_environment(wheels, offline=True)
    assert environment["PYTHONPATH"].endswith(".whl")
    assert (installation(root, wheels).run() / "torch").is_dir()

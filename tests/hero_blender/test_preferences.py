# SPDX-License-Identifier: GPL-3.0-or-later
"""The preferences draw in every state, and their buttons install, remove, cancel and refuse."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

bpy = pytest.importorskip("bpy")

from fake_wheels import write_torch  # noqa: E402

import hero_blender  # noqa: E402
from hero_blender import install_torch, job, preferences, properties, torch_folder, user_files  # noqa: E402
from hero_blender.preferences import Running  # noqa: E402
from hero_core.errors import HeroError  # noqa: E402


@pytest.fixture
def general(blend: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The preferences of the enabled add-on, with a home of the test's own."""
    monkeypatch.setattr(user_files, "home", lambda: tmp_path / "home")
    hero_blender.register()
    entry = bpy.context.preferences.addons.new()
    entry.module = "hero_blender"
    found = preferences.preferences(bpy.context)
    assert isinstance(found, bpy.types.AddonPreferences)
    Running.message, Running.failed = "", False
    torch_folder.find.cache_clear()
    clear = torch_folder.find.cache_clear
    yield found
    bpy.context.preferences.addons.remove(entry)
    hero_blender.unregister()
    clear()


class Layout:
    """Stands for bpy's UILayout, which only a window has: records what is drawn, with its own names and icons."""

    use_property_split = False

    def __init__(self, drawn: list[tuple[str, str]] | None = None) -> None:
        self.drawn: list[tuple[str, str]] = [] if drawn is None else drawn

    def __getattr__(self, function: str) -> Callable[..., Any]:
        known = bpy.types.UILayout.bl_rna.functions[function].parameters

        def record(*given: Any, **named: Any) -> Layout:
            assert set(named) <= set(known.keys())
            if "icon" in named:
                assert named["icon"] in known["icon"].enum_items
            if function == "prop":
                assert given[1] in given[0].bl_rna.properties
            if function == "operator":
                assert getattr(bpy.ops.hero, given[0].split(".")[1]).idname_py() == given[0]
            self.drawn.append((function, str(named["text"] if function in {"label", "progress"} else given[-1:])))
            return Layout(self.drawn)

        return record


def drawn(general: Any) -> str:
    class Drawing:
        layout = Layout()

        def __getattr__(self, name: str) -> Any:
            return getattr(general, name)

    preferences.HeroPreferences.draw(Drawing(), bpy.context)  # type: ignore[arg-type]
    return "\n".join(f"{kind} {text}" for kind, text in Drawing.layout.drawn)


def test_draws_in_every_state(general: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_folder, "find", lambda chosen="": None)
    text = drawn(general)
    assert "PyTorch was not found: install it" in text and "hero.install_torch" in text
    assert "remove_torch" not in text and "wheel_folder" not in text
    general.show_sources = True
    assert all(name in drawn(general) for name in ("wheel_folder", "package_index", "proxy"))
    monkeypatch.setattr(torch_folder, "find", lambda chosen="": Path("somewhere"))
    assert "PyTorch: somewhere" in drawn(general) and "remove_torch" not in drawn(general)
    part = user_files.new_part(tmp_path / "torch")
    user_files.write_about(part, {"kind": "cuda", "torch": "9.1", "bytes": 4e9})
    monkeypatch.setattr(torch_folder, "find", lambda chosen="": part)
    assert "PyTorch 9.1 for the NVIDIA graphics card (CUDA), 4.0 GB" in drawn(general)
    assert "remove_torch" in drawn(general)
    monkeypatch.setattr(torch_folder, "why_processor", lambda: "cuda: no kernel image")
    assert "The processor computes, because cuda: no kernel image" in drawn(general)
    Running.message, Running.failed = "It failed", True
    assert "label It failed" in drawn(general)
    monkeypatch.setattr(Running, "job", type("Job", (), {"stage": "Loading torch"})())
    text = drawn(general)
    assert "progress Loading torch…" in text and "hero.cancel_installation" in text
    assert "hero.install_torch" not in text
    assert not bpy.ops.hero.install_torch.poll() and not bpy.ops.hero.install_weights.poll()


def test_install_and_remove(general: Any, tmp_path: Path) -> None:
    write_torch(tmp_path / "wheels")
    general.wheel_folder, general.torch_kind = str(tmp_path / "wheels"), "CPU"
    assert bpy.ops.hero.install_torch() == {"FINISHED"}
    folder = torch_folder.installed()
    assert folder is not None and folder.parent == tmp_path / "home" / "torch"
    assert "PyTorch 9.1 is installed" in Running.message and Running.job is None
    assert bpy.ops.hero.remove_torch() == {"FINISHED"}
    assert "when Blender starts the next time" in Running.message
    assert torch_folder.installed() is None and folder.is_dir()
    with pytest.raises(RuntimeError, match="nothing to remove"):
        bpy.ops.hero.remove_torch()


def test_refusals_are_one_sentence(general: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    general.wheel_folder = str(tmp_path)
    with pytest.raises(RuntimeError, match="holds no wheels"):
        bpy.ops.hero.install_torch()
    general.wheel_folder = ""
    bpy.context.preferences.system.use_online_access = False
    assert not bpy.app.online_access
    with pytest.raises(RuntimeError, match="Blender may not go online: allow it in Preferences"):
        bpy.ops.hero.install_torch()
    with pytest.raises(RuntimeError, match="Choose the folder of the official release"):
        bpy.ops.hero.install_weights()
    assert Running.job is None and not (tmp_path / "home").exists()


def test_what_is_asked_before_anything_is_loaded(general: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_torch, "recommended", lambda: ("cuda", "there is a driver"))
    lines = preferences.what_will_happen(install_torch.Choice("cuda"))
    assert "there is a driver" in lines[0] and "3.0 GB are loaded from the package index of pip" in lines[1]
    assert "9.0 GB" in lines[2] and "BSD" in lines[3]
    assert "without a network" in preferences.what_will_happen(install_torch.Choice("cpu", "wheels"))[1]


def test_in_a_window_it_runs_in_a_thread(general: Any, tmp_path: Path) -> None:
    """The timer's function is called by hand: a background Blender has no main loop."""
    write_torch(tmp_path / "slow", code="import time\ntime.sleep(600)\n")
    work = install_torch.Installation(
        install_torch.Choice("cpu", str(tmp_path / "slow")), tmp_path / "home" / "torch", "1.0", False
    )
    Running.job, Running.worker = work, job.Worker(work.run)
    done: list[Path] = []
    assert preferences.watch(done.append) == 0.2
    assert bpy.ops.hero.cancel_installation.poll()
    bpy.ops.hero.cancel_installation()
    started = time.monotonic()
    while preferences.watch(done.append) is not None:
        assert time.monotonic() - started < 60
        time.sleep(0.05)
    assert Running.message == "Cancelled: nothing was changed" and not done
    assert Running.job is None and Running.worker is None
    assert not list((tmp_path / "home" / "torch").glob(".part*"))

    def fail(_: Any) -> Path:
        raise HeroError("The disk is full.")

    Running.job, Running.worker = work, job.Worker(fail)
    while preferences.watch(done.append) is not None:
        time.sleep(0.01)
    assert (Running.message, Running.failed) == ("The disk is full.", True)


def test_weights_of_a_folder(general: Any, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="this Python has no torch; weights cannot be read")
    from models import write_official

    general.weights_source = str(write_official(tmp_path))
    with pytest.raises(RuntimeError, match="Accept the terms"):
        bpy.ops.hero.install_weights()
    assert general.weights == ""
    assert bpy.ops.hero.install_weights(accept=True) == {"FINISHED"}
    folder = Path(general.weights)
    assert folder.parent == tmp_path / "home" / "weights" and (folder / "model.safetensors").is_file()
    assert "million parameters" in drawn(general)
    assert properties.settings_of(bpy.context).model == str(folder)
    bpy.context.scene.hero.model = "//mine"
    assert properties.settings_of(bpy.context).model == bpy.path.abspath("//mine")
    assert "torch" in sys.modules

# SPDX-License-Identifier: GPL-3.0-or-later
"""A layout to draw panels into without a window: it records what is drawn, and checks it against Blender's own."""

from __future__ import annotations

from typing import Any

import bpy


class Layout:
    """Stands for bpy's UILayout, which only a window has: records what is drawn, with its own names and icons."""

    def __init__(self, drawn: list[tuple[str, Any]] | None = None) -> None:
        self.drawn: list[tuple[str, Any]] = [] if drawn is None else drawn

    def _check(self, function: str, given: dict[str, Any]) -> None:
        known = bpy.types.UILayout.bl_rna.functions[function].parameters
        assert set(given) <= set(known.keys())
        if "icon" in given:
            assert given["icon"] in known["icon"].enum_items

    def row(self, **given: Any) -> Layout:
        self._check("row", given)
        return Layout(self.drawn)

    def column(self, **given: Any) -> Layout:
        self._check("column", given)
        return Layout(self.drawn)

    def box(self) -> Layout:
        return Layout(self.drawn)

    def split(self, **given: Any) -> Layout:
        self._check("split", given)
        return Layout(self.drawn)

    def prop(self, data: Any, name: str, **given: Any) -> None:
        self._check("prop", given)
        assert name in data.bl_rna.properties
        self.drawn.append(("prop", name))

    def prop_search(self, data: Any, name: str, source: Any, names: str, **given: Any) -> None:
        self._check("prop_search", given)
        assert name in data.bl_rna.properties
        assert source.bl_rna.properties[names].type == "COLLECTION"
        self.drawn.append(("search", name))

    def label(self, **given: Any) -> None:
        self._check("label", given)
        self.drawn.append(("label", given["text"]))

    def operator(self, name: str, **given: Any) -> Any:
        self._check("operator", given)
        operator = getattr(bpy.ops.hero, name.split(".")[1])
        assert operator.idname_py() == name
        self.drawn.append(("operator", name))
        known = set(operator.get_rna_type().properties.keys())

        class Given:
            def __setattr__(self, key: str, value: Any) -> None:
                assert key in known

        return Given()

    def operator_menu_enum(self, name: str, prop: str, **given: Any) -> None:
        self._check("operator_menu_enum", given)
        assert prop in getattr(bpy.ops.hero, name.split(".")[1]).get_rna_type().properties
        self.drawn.append(("operator", name))

    def menu(self, name: str, **given: Any) -> None:
        self._check("menu", given)
        assert hasattr(bpy.types, name)
        self.drawn.append(("menu", name))

    def separator(self, **given: Any) -> None:
        self._check("separator", given)

    def template_list(
        self, kind: str, list_id: str, data: Any, name: str, active: Any, prop: str, **given: Any
    ) -> None:
        self._check("template_list", given)
        assert hasattr(bpy.types, kind) and hasattr(data, name) and prop in active.bl_rna.properties
        self.drawn.append(("list", kind))

    def progress(self, **given: Any) -> None:
        self._check("progress", given)
        assert 0 <= given["factor"] <= 1
        self.drawn.append(("progress", given["text"]))


def drawn(panel: type | None = None) -> list[tuple[str, Any]]:
    """What a panel draws in the open file; that of the 3D view if none is named."""
    from hero_blender import panels

    class Drawing:
        layout = Layout()

    (panel or panels.HERO_PT_view3d).draw(Drawing, bpy.context)  # type: ignore[attr-defined]
    return Drawing.layout.drawn

# SPDX-License-Identifier: GPL-3.0-or-later
"""``--face`` and what belongs to it, for the commands that react."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import bpy

from hero_core.errors import HeroError
from hero_core.face import listener
from hero_core.face.keys import REGIONS, Options

from . import face

STRENGTHS = (*REGIONS, "head")


def add_options(command: argparse.ArgumentParser) -> None:
    """The choices of ``face.FaceSettings``."""
    usual, rules = Options(), listener.Options()
    group = command.add_argument_group("face", "let the face react to the sound of the clip, beside the body")
    group.add_argument(
        "--face", default="off", metavar="off|rules|FOLDER",
        help="rules: the rule-based listener, which is not learned; a folder: ReactDiff weights (default: off)",
    )  # fmt: skip
    group.add_argument("--face-emotion", type=float, help=f"of the rules: -1 gloomy .. 1 friendly ({rules.valence:g})")
    group.add_argument("--face-energy", type=float, help=f"of the rules: -1 sleepy .. 1 excited ({rules.arousal:g})")
    group.add_argument("--face-attentiveness", type=float, help=f"of the rules: 0 .. 1 ({rules.attentiveness:g})")
    group.add_argument("--face-speaker", type=Path, help="face curves of the person in the clip, .csv or .json")
    group.add_argument("--face-online", action="store_true", help="of weights: each frame knows only what came before")
    group.add_argument("--face-map", type=Path, help=".json of which shape key and control shows what")
    group.add_argument("--face-mesh", help="the one mesh to key; default: all of the character")
    group.add_argument(
        "--face-key", choices=["auto", "keys", "bones"], default=usual.prefer, help="shape keys, face controls or both"
    )
    group.add_argument(
        "--face-strength", nargs="+", metavar="REGION=X", default=[],
        help=f"how strong a part is, 1 as generated: {', '.join(STRENGTHS)}",
    )  # fmt: skip
    group.add_argument("--face-mirror", action="store_true", help="exchange left and right of the face")
    group.add_argument("--face-smooth", type=float, default=usual.smooth, help="0 .. 1: take out jitter, spare blinks")


def settings_of(args: argparse.Namespace, takes: int, seed: int) -> face.FaceSettings:
    """What the arguments say; raises HeroError for what cannot be."""
    kind = {"off": face.OFF, "rules": face.RULES}.get(args.face, face.MODEL)
    rules: dict[str, Any] = {
        name: value
        for name, value in (
            ("valence", args.face_emotion), ("arousal", args.face_energy), ("attentiveness", args.face_attentiveness),
        )
        if value is not None
    }  # fmt: skip
    if rules and kind != face.RULES:
        raise HeroError("--face-emotion, --face-energy and --face-attentiveness are of the rules; give --face rules.")
    if args.face_online and kind != face.MODEL:
        raise HeroError("--face-online is for ReactDiff weights; give their folder with --face.")
    if kind == face.MODEL and not Path(args.face).is_dir():
        raise HeroError(f"There is no folder '{args.face}' of ReactDiff weights; give --face off, rules or a folder.")
    strengths: dict[str, float] = {}
    for text in args.face_strength:
        name, _, number = text.partition("=")
        try:
            strengths[name] = float(number)
        except ValueError:
            strengths[name] = float("nan")
        if name not in STRENGTHS or strengths[name] != strengths[name]:
            raise HeroError(f"'{text}' is no strength of a part; write as in mouth=0.8, of {', '.join(STRENGTHS)}.")
    return face.FaceSettings(
        kind=kind,
        model=args.face if kind == face.MODEL else "",
        takes=takes,
        seed=seed,
        rules=listener.Options(**rules),
        speaker=str(args.face_speaker) if args.face_speaker else "",
        online=args.face_online,
        device=args.device,
        file=str(args.face_map) if args.face_map else "",
        keys=Options(
            **strengths,
            mirror=args.face_mirror,
            smooth=args.face_smooth,
            reduce=not args.every_frame,
            prefer=args.face_key,
        ),
    )


def add_face(
    args: argparse.Namespace,
    report: dict[str, Any],
    clip: Any,
    armature: bpy.types.Object,
    scene: bpy.types.Scene,
    on_progress: face.Progress | None = None,
) -> dict[str, Any]:
    """The report of a body's takes with the face keyed into them, where ``--face`` asks for it.

    clip: the strip, or the path of the file. Raises HeroError.
    """
    return add(settings_of(args, 1, 0), args.face_mesh, report, clip, armature, scene, on_progress)


def add(
    settings: face.FaceSettings,
    mesh_name: str | None,
    report: dict[str, Any],
    clip: Any,
    armature: bpy.types.Object,
    scene: bpy.types.Scene,
    on_progress: face.Progress | None = None,
) -> dict[str, Any]:
    """The same by settings, whose takes and seed are those of the report."""
    if not settings.on:
        return report
    settings = face.with_body(settings, len(report["takes"]), report["takes"][0]["seed"])
    mesh = None
    if mesh_name:
        mesh = bpy.data.objects.get(mesh_name)
        if mesh is None:
            raise HeroError(f"There is no mesh '{mesh_name}'; name one of the character.")
    job = face.FaceJob(scene, clip, armature, mesh, settings, hold=True)
    face.run(job, on_progress)
    names = [take["action"] for take in report["takes"]]
    return {**report, "face": job.write(report["first_frame"], names)}

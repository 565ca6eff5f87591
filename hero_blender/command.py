# SPDX-License-Identifier: GPL-3.0-or-later
"""The main job from a command line: ``blender -b FILE --command hero …`` and ``python -m hero_blender …``.

Both read the same arguments. With Blender's own program the character is that of the opened file; with the bpy module
``--rig`` names the file that holds it. The result is written whole, by a rename at the end, or not at all.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import time
from pathlib import Path
from typing import Any, Literal

import bpy

from hero_core.batch import STALE, Stopped, UsageError
from hero_core.errors import HeroError
from hero_core.motion import Motion
from hero_core.output import check_output, whole_file
from hero_core.retarget.mapping import write_map
from hero_core.retarget.options import Options
from hero_core.video import read_video

from . import bake, bake_preview, bone_map, compat, export, face_command, react, rigfile
from .place import Choice
from .report import measured
from .told import left_alone


def parser(standalone: bool) -> argparse.ArgumentParser:
    """``standalone``: there is no opened file, so the rig has to be named."""
    root = argparse.ArgumentParser(
        prog="python -m hero_blender" if standalone else "blender -b FILE --command hero",
        description="Makes a character react to a video.",
    )
    commands = root.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    opened = "" if standalone else "; default: the opened file"
    rig_help = f"file with the character: .blend, .glb, .gltf, .vrm, .fbx or .bvh{opened}"
    common.add_argument("--rig", type=Path, required=standalone, help=rig_help)
    common.add_argument("--armature", help="name of the armature, where there are several")
    common.add_argument("--out", type=Path, required=standalone, help=f".blend to write{opened}")
    common.add_argument("--report", type=Path, help=".json to write: what was made, and how well (measured on the rig)")
    common.add_argument("--map", type=Path, help=".json of which bone is which joint; it is kept on the armature")

    command = commands.add_parser("react", parents=[common], help="watch a video and write the reaction")
    clip = command.add_mutually_exclusive_group(required=standalone)
    clip.add_argument("--video", type=Path, help="movie file; it is put into the sequencer as a strip")
    clip.add_argument("--strip", help="name of a strip in the sequencer; default: the active or only one")
    command.add_argument("--takes", type=int, default=1, help="how many reactions, one Action for each")
    length = command.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, help="length of the reaction; default: that of the clip")
    length.add_argument(
        "--length", choices=["clip", "model"], default="clip", help="model: it chooses one for each take"
    )
    command.add_argument("--seed", type=int, default=0)
    _add_model(command)

    command = commands.add_parser("retarget", parents=[common], help="put a motion on a rig")
    command.add_argument("--motion", type=Path, required=True, help="motion.npz or joints.npy")
    for each in (commands.choices["react"], command, _add_bake(commands, standalone)):
        _add_fit(each)
    for each in (commands.choices["react"], commands.choices["bake"]):
        _add_place(each)
        face_command.add_options(each)

    command = commands.add_parser("map", help="tell which bone is which joint, how it was found and how sure that is")
    command.add_argument("--rig", type=Path, required=standalone, help=rig_help)
    command.add_argument("--armature", help="name of the armature, where there are several")
    command.add_argument("--map", type=Path, help=".json to check against the rig")
    command.add_argument("--out", type=Path, help=".json to write: correct it, then give it with --map")
    return root


def _add_bake(commands: Any, standalone: bool) -> argparse.ArgumentParser:
    opened = "" if standalone else "; default: the opened file"
    command: argparse.ArgumentParser = commands.add_parser(
        "bake",
        help="react to many clips; what was stopped goes on where it was",
        description="Reacts to all clips of a folder (and of those in it) or of a list. A .csv has a column clip and, "
        "as needed, rig, armature, map, takes, seed, seconds (a number, clip or model) and name; a .json the same as a "
        "list of objects; a .txt one path in a line. Paths are relative to the list. Started again after any end, it "
        "goes on where it was. Exit codes: 0 all is there, 1 some clips failed, 2 it could not begin, 3 it had to stop "
        "(disk full), 130 Ctrl-C, 143 SIGTERM.",
    )
    command.add_argument("clips", type=Path, help="folder of clips, or a .csv, .json or .txt list of them")
    command.add_argument("--out", type=Path, required=True, help="folder of the results; it is made if need be")
    command.add_argument(
        "--rig", type=Path, nargs="+", help=f"one or several files of characters, for clips that name none{opened}"
    )
    command.add_argument("--armature", help="name of the armature, where a rig has several")
    command.add_argument("--map", type=Path, help=".json of which bone is which joint")
    command.add_argument(
        "--format", nargs="+", choices=export.FORMATS, help="files to write for each take (default: blend)"
    )
    command.add_argument(
        "--preview", nargs="+", choices=list(bake_preview.KINDS), help="pictures of each take: a .png, an .mp4, or both"
    )
    command.add_argument("--takes", type=int, default=1, help="how many reactions, from each seed on")
    command.add_argument("--seed", type=int, nargs="+", help="one or several (default: 0)")
    length = command.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, help="length of the reactions; default: that of the clip")
    length.add_argument(
        "--length", choices=["clip", "model"], default="clip", help="model: it chooses one for each take"
    )
    _add_model(command)
    farm = command.add_argument_group("farm")
    farm.add_argument("--jobs", type=int, default=1, help="processes on this machine")
    farm.add_argument("--shard", metavar="I/N", help="only the I-th of N parts of the list, counted from 1")
    farm.add_argument(
        "--stale", type=float, default=STALE, help="seconds after which clips of a lost machine are taken over"
    )
    command.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return command


def _add_model(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", help="folder of weights; default: those that ship")
    command.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    command.add_argument("--dtype", default="auto", choices=["auto", "float32", "bfloat16"])


def _add_fit(command: argparse.ArgumentParser) -> None:
    """The choices of ``hero_core.retarget.options.Options``."""
    usual = Options()
    group = command.add_argument_group("fit", "how the motion is put on the rig")
    group.add_argument(
        "--preserve", type=float, default=usual.preserve,
        help="where proportions differ: 0 limb directions (default), 1 hand and foot positions, or between",
    )  # fmt: skip
    group.add_argument("--no-pin", action="store_true", help="do not hold feet that stand")
    group.add_argument("--no-smooth", action="store_true", help="leave the jitter of the joints in")
    group.add_argument("--limits", action="store_true", help="respect the rotation limits of the armature")
    group.add_argument(
        "--root", choices=["hips", "root", "object"], default=usual.root, help="what carries the way through the scene"
    )
    group.add_argument("--in-place", action="store_true", help="leave the way through the scene out")
    group.add_argument(
        "--controls", choices=["auto", "ik", "fk"], default=usual.controls,
        help="which controls of a control rig are switched on; both are keyed",
    )  # fmt: skip
    group.add_argument("--every-frame", action="store_true", help="a key on each frame instead of few with handles")
    group.add_argument("--degrees", type=float, default=usual.degrees, help="how far a bone may be off for few keys")
    group.add_argument(
        "--millimetres", type=float, default=usual.millimetres, help="how far hands, feet and head may be off for them"
    )
    group.add_argument(
        "--action", choices=["keep", "replace", "layer", "nla"], default=usual.action,
        help="the Action that is there: keep it, remove it, put it below the new one, or stack both in the NLA",
    )  # fmt: skip


def _add_place(command: argparse.ArgumentParser) -> None:
    """The choices of ``place.Choice``."""
    group = command.add_argument_group("timing and place", "when, where and which way round")
    group.add_argument(
        "--delay", default="0", metavar="FRAMES|SECONDSs",
        help="how much later than the clip it starts: frames of the scene, or seconds as in 0.5s; may be negative",
    )  # fmt: skip
    group.add_argument("--time-scale", type=float, default=1.0, help="how long it takes: 2 is half as fast")
    group.add_argument(
        "--face-to",
        metavar="camera|NAME",
        help="face the camera or an object; default: as the character stands",
    )
    group.add_argument("--at-origin", action="store_true", help="start at the scene's origin, not where it stands")
    group.add_argument("--mirror", action="store_true", help="exchange left and right")
    group.add_argument("--start-pose", action="store_true", help="follow the pose that the character has then")


def _place(args: argparse.Namespace) -> Choice:
    frames, seconds = 0, 0.0
    try:
        if args.delay.endswith("s"):
            seconds = float(args.delay[:-1])
        else:
            frames = int(args.delay)
    except ValueError as err:
        raise HeroError(
            f"A delay is a number of frames, such as -12, or seconds, such as 0.5s; '{args.delay}' is neither."
        ) from err
    face: Literal["character", "camera", "object"] = "character"
    if args.face_to:
        face = "camera" if args.face_to.lower() == "camera" else "object"
    return Choice(
        frames, seconds, args.time_scale, face, args.face_to or "", "origin" if args.at_origin else "character",
        args.mirror, args.start_pose,
    )  # fmt: skip


def _fit(args: argparse.Namespace) -> Options:
    return Options(
        preserve=args.preserve,
        pin_feet=not args.no_pin,
        smooth=not args.no_smooth,
        limits=args.limits,
        root=args.root,
        in_place=args.in_place,
        controls=args.controls,
        reduce=not args.every_frame,
        degrees=args.degrees,
        millimetres=args.millimetres,
        action=args.action,
    )


def main(argv: list[str], standalone: bool = False) -> int:
    """Exit code: 0 only when the result is there; ``bake`` has more of them. Problems are one line on stderr."""
    try:
        args = parser(standalone).parse_args(argv)
        if args.command == "bake":
            return _bake(args, argv)
        run(args)
    except HeroError as err:
        print(f"error: {err}".encode(errors="backslashreplace").decode(), file=sys.stderr)
        return 2 if isinstance(err, UsageError) else 3 if isinstance(err, Stopped) else 1
    except SystemExit as end:  # argparse: help or usage
        return end.code if isinstance(end.code, int) else 2
    except KeyboardInterrupt:
        print("Cancelled: nothing was written.", file=sys.stderr)
        return 130
    return 0


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Do what the arguments say and return the report; raises HeroError."""
    if args.command == "map":
        return _map(args)
    if args.out is None and args.rig is not None:
        raise HeroError("With --rig, --out is needed, too: name the .blend to write.")
    if args.out is None and not bpy.data.filepath:
        raise HeroError("The opened file was never saved; name the .blend to write with --out.")
    out = check_output(args.out or bpy.data.filepath, ".blend")
    report_file = check_output(args.report, ".json") if args.report else None
    if args.command == "react":
        report = _react(args)
    else:
        motion, fit = Motion.load(args.motion), _fit(args)
        armature = _character(args)
        report = react.write_takes(armature, motion, args.motion.stem, _scene().frame_start, _scene(), fit)
        if report_file is not None:
            report["measured"] = measured(armature, motion, 0, report, _scene(), fit)
    _save(out, report_file, report)
    names = ", ".join(take["action"] for take in report["takes"])
    print(f"{out}: '{report['armature']}' from frame {report['first_frame']} on: {names}")
    alone = left_alone(report)
    if alone:
        print(alone)
    return report


def _bake(args: argparse.Namespace, argv: list[str]) -> int:
    args.argv = argv
    try:
        fit, place = _fit(args), _place(args)
    except HeroError as err:
        raise UsageError(str(err)) from err
    settings = react.Settings(1, args.seconds, False, 0, args.model, args.device, args.dtype, fit=fit, place=place)
    return bake.run(args, settings)


def _map(args: argparse.Namespace) -> dict[str, Any]:
    out = check_output(args.out, ".json") if args.out is not None else None
    obj = _character(args)
    bones = bone_map.table(obj)
    if out is not None:
        write_map(out, obj.name, {joint: bone for joint, (bone, _, _) in bones.items()})
    rows = [("joint", "bone", "found by", "sure")]
    rows += [
        (joint, bone or "-", how or "-", f"{sure:.0%}" if bone else "-") for joint, (bone, how, sure) in bones.items()
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    mapped = sum(bool(bone) for bone, _, _ in bones.values())
    print(f"'{obj.name}': {mapped} of {len(bones)} joints have a bone")
    return {"armature": obj.name, "map": {joint: bone for joint, (bone, _, _) in bones.items()}}


def _react(args: argparse.Namespace) -> dict[str, Any]:
    settings = react.Settings(
        args.takes, args.seconds, args.length == "model", args.seed, args.model, args.device, args.dtype,
        fit=_fit(args), place=_place(args),
    )  # fmt: skip
    face_command.settings_of(args, args.takes, args.seed)  # what cannot be is told before any work
    if args.video is None:
        armature, strip = _character(args), _strip(_scene(), args.strip)
        report = react.react_strip(_scene(), strip, armature, settings, _show)
        return face_command.add_face(args, report, strip, armature, _scene(), _show)
    start = time.perf_counter()
    clip = read_video(
        args.video, on_progress=_show
    )  # first: a file that cannot be read is told before the rig is loaded
    watched = time.perf_counter() - start
    armature = _character(args)
    scene = _scene()
    imported = args.rig is not None and args.rig.suffix.lower() != ".blend"
    if imported:
        bake.match_rate(scene, clip.fps)
    first = scene.frame_start
    path = str(args.video.absolute())
    report = react.react_video(scene, clip, args.video.stem, first, armature, settings, _show, path)
    report["seconds"]["watch"] = watched
    report = face_command.add_face(args, report, path, armature, scene, _show)
    strip = compat.add_movie(scene, path, clip.fps, first)
    if imported:
        scene.frame_end = max(compat.strip_range(strip)[1] - 1, _last_key(report))
    return report


def _scene() -> bpy.types.Scene:
    scene = bpy.context.scene
    assert scene is not None
    return scene


def _character(args: argparse.Namespace) -> bpy.types.Object:
    """The armature that is to react, in the opened file or in the one of ``--rig``."""
    if args.rig is not None:
        obj = rigfile.load_rig(args.rig, args.armature)
    else:
        obj = rigfile.pick_armature(args.armature, Path(bpy.data.filepath).name or "the opened file")
    if args.map is not None:
        bone_map.use_file(obj, args.map)
    return obj


def _strip(scene: bpy.types.Scene, name: str | None) -> Any:
    strips = compat.all_strips_of(scene)
    pictures = [strip for strip in strips if strip.type != "SOUND"]
    if name is not None:
        found = strips.get(name) if strips else None
        if found is None:
            raise HeroError(f"The sequencer has no strip '{name}'; it has: {_names(pictures)}.")
        return found
    active = compat.active_strip(scene)
    if active is not None and active.type != "SOUND":
        return active
    if len(pictures) != 1:
        raise HeroError(f"Say which strip to watch with --strip; the sequencer has: {_names(pictures)}.")
    return pictures[0]


def _names(strips: list[Any]) -> str:
    return ", ".join(f"'{strip.name}'" for strip in strips) or "none"


def _last_key(report: dict[str, Any]) -> int:
    """Of the longest take."""
    return max(round(bpy.data.actions[take["action"]].frame_range[1]) for take in report["takes"])


def _save(out: Path, report_file: Path | None, report: dict[str, Any]) -> None:
    with contextlib.ExitStack() as stack:
        part = stack.enter_context(whole_file(out))
        if report_file is not None:
            text = stack.enter_context(whole_file(report_file))
            text.write_text(json.dumps(report, indent=1), encoding="utf-8")
        try:
            bpy.ops.wm.save_as_mainfile(filepath=str(part), copy=True, check_existing=False)
        except RuntimeError as err:
            raise HeroError(f"Blender cannot write '{out}': {str(err).strip()}") from err


def _show(done: int, total: int) -> bool:
    if sys.stderr.isatty():
        print(f"\r{done}/{total} ", end="" if done < total else "\n", file=sys.stderr, flush=True)
    return True

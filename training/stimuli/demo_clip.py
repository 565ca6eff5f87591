# SPDX-License-Identifier: GPL-3.0-or-later
"""Render the clip that comes with the project: somebody strides up to the camera and throws a punch at it.

    python -m training.stimuli.demo_clip --data DATA --out demo/clip.mp4

Made of the same parts as the training clips, as a film of 25 frames a second. Body: MakeHuman (CC0);
walk: CMU Graphics Lab Motion Capture Database; punch: Mesh2Motion (CC0).
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np

from training.stimuli.actor import Body, Person
from training.stimuli.catalogue import CC0, CMU
from training.stimuli.dataset import Motions, joined_length, place
from training.stimuli.people import aim_arm, lean, stage
from training.stimuli.render import draw
from training.stimuli.scene import FPS, Scene, at_times
from training.stimuli.scenes import surroundings

SIZE = (640, 360)
RATE = 25
EYES = np.array([0.0, 1.55, 0.0])
WALK: dict[str, Any] = {"file": CMU, "name": "02_01", "start": 0, "length": 56, "reverse": False}
PUNCH: dict[str, Any] = {"file": CC0, "name": "M2M_Punch_Cross+idle", "start": 14, "length": 40, "reverse": False}


def script(data: Path, seed: int) -> Scene:
    """Who comes, where, and how the eyes see it."""
    motions, rng = Motions(data), np.random.default_rng(seed)
    reach = place(motions.window(PUNCH))
    reach = (reach[:, [20, 21], 2] - reach[:, :1, 2]).max(1)
    impact = int(np.argmax(reach > 0.97 * reach.max()))
    joints = motions.join([WALK, PUNCH])
    key = joined_length([WALK["length"], PUNCH["length"]]) - PUNCH["length"] + impact
    joints = stage(lean(joints, 4.0), key, (0.0, float(reach.max()) + 0.45), np.pi)
    blow = np.exp(-(((np.arange(len(joints)) - key) / 3.5) ** 4))
    at_lens = EYES + (0, 0.12, 0) - joints[:, 17]  # straight at the lens, not at the chest below it
    joints = aim_arm(joints, 1, at_lens, at_lens, blow)
    event = key / FPS / 1.1
    seconds = event + 1.0
    count = round(seconds * RATE)
    scene = Scene(seconds, np.arange(count) / RATE, fov=62.0, aspect=SIZE[0] / SIZE[1], event=event)
    scene.light = {"studio": "Default", "direction": [0.35, 0.25, 0.9], "shadows": True, "cavity": True}
    scene.look_grade = {"exposure": 0.5, "gamma": 1.0, "white": [1, 1, 1], "noise": 0.0, "blur": 0.0, "contrast": 1.0}
    scene.flash = np.zeros(count)
    poses = at_times(joints, scene.times * 1.1)
    scene.meshes.append(Person(Body(data / "actor"), rng, mood="angry").pose(poses))
    surroundings(scene, rng, outdoors=True, road=False)

    t = scene.times[:, None]
    sway = np.sin(t * [2.1, 3.3, 2.7] + [0, 1, 2]) + 0.5 * np.sin(t * [5.9, 4.7, 6.8])
    after = np.maximum(t - event, 0)
    jolt = (t >= event) * np.exp(-after * 5) * np.sin(after * [31, 37, 0])
    scene.eye = EYES + 0.006 * sway + (0, 0, -0.35) * (1 - np.exp(-after * 6)) + 0.02 * jolt
    focus = poses[:, 0] + (0, 0.38, 0)
    scene.look = focus * (0.6, 0.7, 0.6) + focus[0] * (0.4, 0.3, 0.4) + 0.02 * sway + 0.12 * jolt
    scene.roll = np.radians(0.5 * sway[:, 0] + 3 * jolt[:, 0])
    return scene


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of motions, actor and stimuli")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=8, help="looks of the person and the place")
    args = parser.parse_args(arguments)
    scene = script(args.data, args.seed)
    frames = draw(scene, SIZE)
    with av.open(str(args.out), "w", options={"movflags": "+faststart"}) as movie:
        stream = movie.add_stream("libx264", rate=RATE, options={"crf": "20", "preset": "slow"})
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        for frame in frames:
            movie.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        movie.mux(stream.encode())
    print(f"{args.out}: {len(frames)} frames, {args.out.stat().st_size / 1e6:.2f} MB", flush=True)


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # a bpy process may hang in its own exit handlers

# SPDX-License-Identifier: GPL-3.0-or-later
"""The networks that the small video encoder learns from; needed while preparing data, never at run time.

    python -m training.teachers --teachers FOLDER --out build/distil/teacher.safetensors

writes the classifier, de-quantised, in the layout of ``hero_core.stem``: the teacher of ``hero_core.train stem``.

MobileNetV2 (ImageNet classes) and MoveNet Lightning (17 body keypoints) are quantised TFLite files of
google-coral/test_data (Apache-2.0), run by the ``ai-edge-litert`` interpreter. The face expression net is
face-api.js's (MIT), whose quantised weight shard is read here with numpy and run with torch.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from hero_core.errors import HeroError
from hero_core.stem import ConvStem
from hero_core.train import loop

CLASSIFIER = "test_data__mobilenet_v2_1.0_224_quant.tflite"
POSE = "test_data__movenet_single_pose_lightning_ptq.tflite"
FACE = "face-api.js__weights_face_expression_model"
EXPRESSIONS = ("neutral", "happy", "sad", "angry", "fearful", "disgusted", "surprised")
SMALLEST_FACE = 20.0  # pixels; below that the expression net guesses

Array = NDArray[Any]


class _Network:
    """One TFLite file whose inner tensors stay readable by name."""

    def __init__(self, path: Path) -> None:
        try:
            from ai_edge_litert.interpreter import Interpreter  # type: ignore[import-untyped]
        except ImportError as err:
            raise HeroError("The teachers need the package ai-edge-litert; install it with pip.") from err
        if not path.is_file():
            raise HeroError(f"The teacher {path.name} is not in {path.parent}; give the folder that holds it.")
        self.net = Interpreter(str(path), num_threads=1, experimental_preserve_all_tensors=True)
        self.net.allocate_tensors()
        self.input = self.net.get_input_details()[0]
        self.side = int(self.input["shape"][1])
        self.tensors = {d["name"]: d for d in self.net.get_tensor_details()}

    def run(self, picture: Array) -> None:
        self.net.set_tensor(self.input["index"], picture[None].astype(self.input["dtype"]))
        self.net.invoke()

    def read(self, part: str) -> Array:
        """De-quantised value of the last tensor (constants come first) whose name holds ``part``."""
        detail = [d for name, d in self.tensors.items() if part in name][-1]
        value = self.net.get_tensor(detail["index"]).astype(np.float32)
        scale, zero = detail["quantization"]
        return (value - zero) * scale if scale else value


class _Expression:
    """FaceExpressionNet of face-api.js: four blocks of separable convolutions, 112x112 in, 7 classes out."""

    def __init__(self, folder: Path) -> None:
        manifest = json.loads((folder / f"{FACE}-weights_manifest.json").read_text())
        raw = (folder / f"{FACE}-shard1").read_bytes()
        self.weights: dict[str, torch.Tensor] = {}
        at = 0
        for entry in manifest[0]["weights"]:
            count = int(np.prod(entry["shape"]))
            quantised = entry.get("quantization")
            dtype = np.dtype(quantised["dtype"] if quantised else "float32")
            value = np.frombuffer(raw, dtype, count, at).astype(np.float32)
            at += count * dtype.itemsize
            if quantised:
                value = value * quantised["scale"] + quantised["min"]
            self.weights[entry["name"]] = torch.from_numpy(value.reshape(entry["shape"]).copy())

    def _conv(self, x: torch.Tensor, name: str, stride: int) -> torch.Tensor:
        w = self.weights
        if stride == 2:  # TensorFlow's "same" padding of an even size: one row below and right
            x = F.pad(x, (0, 1, 0, 1))
        pad = 1 if stride == 1 else 0
        if f"{name}/filters" in w:  # (h, w, in, out) -> (out, in, h, w)
            return F.conv2d(x, w[f"{name}/filters"].permute(3, 2, 0, 1), w[f"{name}/bias"], stride, pad)
        depth = w[f"{name}/depthwise_filter"].permute(2, 3, 0, 1)  # (in, 1, 3, 3)
        point = w[f"{name}/pointwise_filter"].permute(3, 2, 0, 1)  # (out, in, 1, 1)
        x = F.conv2d(x, depth, None, stride, pad, groups=x.shape[1])
        return F.conv2d(x, point, w[f"{name}/bias"])

    def __call__(self, face: Array) -> Array:
        """(112, 112, 3) uint8 -> (7,) probabilities in the order of EXPRESSIONS."""
        mean = torch.tensor([122.782, 117.001, 104.298])
        x = ((torch.from_numpy(face.astype(np.float32)) - mean) / 255.0).permute(2, 0, 1)[None]  # (1, 3, 112, 112)
        with torch.inference_mode():
            for block in ("dense0", "dense1", "dense2", "dense3"):
                total = self._conv(x, f"{block}/conv0", 2).relu()
                last = total
                for i in (1, 2, 3):
                    last = self._conv(last, f"{block}/conv{i}", 1)
                    total = total + last
                    last = total.relu()
                x = last
            x = F.avg_pool2d(x, 7, 2).flatten(1)  # (1, 256)
            logits = x @ self.weights["fc/weights"] + self.weights["fc/bias"]
            return logits.softmax(-1)[0].numpy()


class Teachers:
    """All teachers on one picture.

    Raises:
        HeroError: a teacher file or the interpreter is missing.
    """

    def __init__(self, folder: Path) -> None:
        self.classifier = _Network(folder / CLASSIFIER)
        self.pose = _Network(folder / POSE)
        self.expression = _Expression(folder)

    def __call__(self, picture: Array) -> dict[str, Array]:
        """picture: (224, 224, 3) uint8 RGB.

        Returns, all float32: ``features`` (1280,) pooled, ``keypoints`` (17, 3) as y, x in 0..1 and score in COCO
        order, ``person`` (1280,) pooled features of the pose net, ``expression`` (7,), ``face`` () how far the
        expression counts, 0 = no face.
        """
        self.classifier.run(picture)
        small = np.asarray(Image.fromarray(picture).resize((self.pose.side, self.pose.side), Image.Resampling.BILINEAR))
        self.pose.run(small)
        keypoints = self.pose.read("StatefulPartitionedCall:0")[0, 0]  # (17, 3)
        expression, face = self._face(picture, keypoints)
        return {
            "features": self.classifier.read("Logits/AvgPool").reshape(-1),
            "keypoints": keypoints,
            "person": self.pose.read("model_1/model/out_relu/Relu6")[0].mean((0, 1)),
            "expression": expression,
            "face": face,
        }

    def _face(self, picture: Array, keypoints: Array) -> tuple[Array, Array]:
        """Expression of the face that the keypoints show: nose, eyes and ears are points 0 to 4."""
        points, score = keypoints[:5, :2] * picture.shape[0], keypoints[:5, 2]
        seen = float(score[:3].min())  # nose and both eyes
        # A face box is about four times as wide as the eyes are apart, or twice as wide as the ears.
        side = max(4.0 * float(np.abs(points[1] - points[2]).max()), 2.0 * float(np.abs(points[3] - points[4]).max()))
        if seen < 0.35 or side < SMALLEST_FACE:
            return np.full(len(EXPRESSIONS), 1.0 / len(EXPRESSIONS), np.float32), np.zeros((), np.float32)
        y, x = points[0]
        box = (x - side / 2, y - side / 2, x + side / 2, y + side / 2)
        face = Image.fromarray(picture).transform((112, 112), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR)
        return self.expression(np.asarray(face)), np.array(seen, np.float32)


def stem_teacher(path: Path) -> ConvStem:
    """The classifier's convolutions up to the last bottleneck, de-quantised, in the order in which they run."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    net = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    net.allocate_tensors()
    details = {d["index"]: d for d in net.get_tensor_details()}

    def value(index: int) -> torch.Tensor:
        how = details[index]["quantization_parameters"]
        raw = net.get_tensor(index).astype(np.float32)
        return torch.from_numpy((raw - how["zero_points"][0]) * how["scales"].astype(np.float32)[0])

    stem = ConvStem()
    layers = [stem.conv]
    for block in stem.blocks:
        layers += [layer for layer in (block.expand, block.depthwise, block.project) if layer is not None]
    steps = [op for op in net._get_ops_details() if op["op_name"] in ("CONV_2D", "DEPTHWISE_CONV_2D")]
    for layer, step in zip(layers, steps, strict=False):  # behind them come the last convolution and the classes
        weight = value(step["inputs"][1])  # (out, h, w, in), of a depthwise convolution (1, h, w, out)
        order = (3, 0, 1, 2) if step["op_name"].startswith("D") else (0, 3, 1, 2)
        layer.weight.data.copy_(weight.permute(order))
        layer.bias.data.copy_(value(step["inputs"][2]))
    return stem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    loop.save_weights(stem_teacher(args.teachers / CLASSIFIER).state_dict(), args.out)


if __name__ == "__main__":
    main()

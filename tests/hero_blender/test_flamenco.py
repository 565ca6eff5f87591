# SPDX-License-Identifier: GPL-3.0-or-later
"""The Flamenco job type in a JavaScript engine, with the objects that Flamenco Manager gives to such a script.

The engine is Duktape, which knows ES5 alone: what it runs, Flamenco's goja (ES5.1 and more) runs in every version.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

dukpy = pytest.importorskip("dukpy", reason="needs a JavaScript engine: pip install dukpy")
pytest.importorskip("bpy")

from hero_blender import command  # noqa: E402
from hero_core import batch  # noqa: E402

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "farm" / "flamenco" / "hero_bake.js"

# As internal/manager/job_compilers/author.go has it: names are required, a command's steps are optional.
MANAGER = """
var tasks = [];
function clean(value, what) {
    value = String(value).trim();
    if (!value) { throw new Error("author." + what + ": name is required"); }
    return value;
}
var author = {
    Task: function (name, type) {
        var commands = [];
        return { name: clean(name, "Task"), type: clean(type, "Task"), commands: commands, dependencies: [],
                 addCommand: function (command) { commands.push(command); },
                 addDependency: function (task) { this.dependencies.push(task.name); } };
    },
    Command: function (name, parameters, steps) {
        return { name: clean(name, "Command"), parameters: parameters, steps: steps || 0 };
    }
};
function print() {}
function compiled(settings) {
    tasks = [];
    compileJob({ name: "test", settings: settings, addTask: function (task) { tasks.push(task); } });
    return JSON.stringify(tasks);
}
"""


@pytest.fixture
def engine() -> Any:
    interpreter = dukpy.JSInterpreter()
    interpreter.evaljs(MANAGER)
    interpreter.evaljs(SCRIPT.read_text())
    return interpreter


def compiled(engine: Any, **settings: Any) -> list[dict[str, Any]]:
    usual = {each["key"]: each["default"] for each in job_type(engine)["settings"] if "default" in each}
    given = {**usual, "clips": "/clips", "out": "/out", "rigs": "/knight.blend", **settings}
    tasks: list[dict[str, Any]] = json.loads(engine.evaljs("compiled(dukpy.given)", given=given))
    return tasks


def job_type(engine: Any) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(engine.evaljs("JSON.stringify(JOB_TYPE)"))
    return data


def words(task: dict[str, Any]) -> list[str]:
    """What the worker runs: {blender} and {blenderArgs} come from the manager, an empty blendfile is left out."""
    (command,) = task["commands"]
    assert command["name"] == "blender-render"
    parameters = command["parameters"]
    assert (parameters["exe"], parameters["exeArgs"]) == ("{blender}", "{blenderArgs}")
    assert parameters["argsBefore"] == [] and parameters["blendfile"] == ""
    assert all(isinstance(word, str) for word in parameters["args"])
    return list(parameters["args"])


def test_settings_are_of_the_kinds_that_flamenco_knows(engine: Any) -> None:
    """As its OpenAPI document lists them."""
    known = {"key", "type", "subtype", "choices", "propargs", "description", "default", "eval", "evalInfo", "visible",
             "required", "editable", "label"}  # fmt: skip
    kind = job_type(engine)
    assert kind["label"] and kind["description"]
    for setting in kind["settings"]:
        assert set(setting) <= known, setting
        assert setting["type"] in {"string", "int32", "float", "bool"}
        assert setting.get("subtype", "file_path") in {"file_path", "dir_path", "file_name", "hashed_file_path"}
        assert setting["visible"] in {"visible", "hidden", "submission", "web"}
        assert setting["description"]
        if "eval" in setting:
            compile(setting["eval"], "eval", "eval")


def test_the_list_is_split_into_tasks(engine: Any, tmp_path: Path) -> None:
    tasks = compiled(engine, shards=5)
    assert [task["name"] for task in tasks] == [f"react-{i}-of-5" for i in range(1, 6)]
    assert {task["type"] for task in tasks} == {"blender"}
    assert not any(task["dependencies"] for task in tasks)  # all at once
    shards = []
    for task in tasks:
        call = words(task)
        assert call[:4] == ["--command", "hero", "bake", "/clips"]
        shards.append(batch.read_shard(call[call.index("--shard") + 1]))
    assert shards == [(i, 5) for i in range(1, 6)]


def test_the_command_is_one_that_hero_reads(engine: Any) -> None:
    """With spaces, umlauts and Windows' backslashes in the names."""
    task, *_ = compiled(
        engine, clips="C:\\Clips\\lions & cars", out="//srv/öut put", rigs="C:\\a b.blend; d.fbx ;", armature=" Hero ",
        formats="fbx, glb", previews="sheet movie", takes=3, seeds="5 -7", model="/models/x",
        more="--seconds 4 --map 'C:\\my maps\\m.json' --no-pin",
    )  # fmt: skip
    call = words(task)
    assert call[:2] == ["--command", "hero"]
    args = command.parser(standalone=False).parse_args(call[2:])
    assert (args.command, str(args.clips), str(args.out)) == ("bake", "C:\\Clips\\lions & cars", "/srv/öut put") or (
        str(args.out) == "//srv/öut put"
    )
    assert [str(rig) for rig in args.rig] == ["C:\\a b.blend", "d.fbx"]
    assert (args.armature, args.format, args.preview) == ("Hero", ["fbx", "glb"], ["sheet", "movie"])
    assert (args.takes, args.seed, args.model) == (3, [5, -7], "/models/x")
    assert (args.seconds, args.no_pin, str(args.map)) == (4.0, True, "C:\\my maps\\m.json")
    assert args.shard == "1/8"


def test_what_is_empty_is_left_out(engine: Any) -> None:
    (task,) = compiled(engine, shards=1, rigs="", armature=None, formats="", previews="", seeds="")
    assert words(task) == ["--command", "hero", "bake", "/clips", "--out", "/out", "--format", "blend", "--takes", "1",
                           "--seed", "0", "--shard", "1/1"]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"clips": " "}, "'clips' is empty"),
        ({"out": ""}, "'out' is empty"),
        ({"shards": 0}, "'shards' has '0'"),
        ({"takes": 1.5}, "'takes' has '1.5'"),
        ({"seeds": "1 x"}, "'seeds' has 'x'"),
        ({"formats": "exe"}, "'formats' has 'exe'; possible are blend"),
        ({"previews": "film"}, "'previews' has 'film'"),
        ({"more": "--map 'a"}, "a quote that is not closed"),
    ],
)
def test_settings_that_make_no_job(engine: Any, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(dukpy.JSRuntimeError, match=re.escape(sentence)):
        compiled(engine, **settings)

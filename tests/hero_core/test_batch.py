# SPDX-License-Identifier: GPL-3.0-or-later
"""Lists of clips, their names and shards, and who works on what: no task twice, none lost."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hero_core import batch
from hero_core.batch import Board, Defaults, Manifest, ProgressBar, Record, Stopped, Task, UsageError

ROOT = Path(__file__).parents[2]
RIG = Path("/rigs/knight.blend")


def task(name: str, seeds: tuple[int, ...] = (0,)) -> Task:
    return Task(0, name, Path(f"/clips/{name}.mp4"), RIG, None, None, seeds, None)


def always(_: Record) -> bool:
    return True


def tasks_of(source: Path, rigs: tuple[Path, ...] = (RIG,), **kwargs: Any) -> list[Task]:
    return batch.read_tasks(source, Defaults(rigs, **kwargs), source / "none" if source.is_dir() else Path("/none"))


# --- Lists ---


def test_a_folder_and_the_folders_in_it(tmp_path: Path) -> None:
    for name in (
        "b.mp4",
        "a.MOV",
        "night/b.mp4",
        "night/ö ü.mkv",
        ".hidden.mp4",
        "._b.mp4",
        "notes.txt",
        "out/old.mp4",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "night" / "loop").symlink_to(tmp_path)
    tasks = batch.read_tasks(tmp_path, Defaults((RIG,)), tmp_path / "out")
    assert [each.name for each in tasks] == ["a_knight", "b_knight", "night/b_knight", "night/ö ü_knight"]
    assert [each.position for each in tasks] == [0, 1, 2, 3]
    assert tasks[0].stem(7) == "a_knight_seed7"
    with pytest.raises(UsageError, match="has no clips"):
        batch.read_tasks(tmp_path / "none", Defaults((RIG,)), tmp_path) if (tmp_path / "none").mkdir() else tasks_of(
            tmp_path / "none"
        )


def test_a_csv_list(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(
        "\ufeffClip; rig; takes; seed; seconds; name\n"
        "lion.mp4; ; ; ; ;\n"
        "\n"
        '"night/a;b.mp4"; ../knight.fbx; 2; 5; 3.5;\n'
        "/far/away.mp4; ; ; -3; model; shots/010\n",
        encoding="utf-8",
    )
    first, second, third = tasks_of(tmp_path / "list.csv", takes=3, seeds=(1,), seconds=2.0)
    assert (first.clip, first.rig, first.seeds, first.seconds) == (tmp_path / "lion.mp4", RIG, (1, 2, 3), 2.0)
    assert (second.clip, second.rig.name, second.seeds) == (tmp_path / "night/a;b.mp4", "knight.fbx", (5, 6))
    assert (second.seconds, second.name) == (3.5, "night/a;b_knight")
    assert (third.clip, third.name, third.seeds[0]) == (Path("/far/away.mp4"), "shots/010", -3)
    assert (third.seconds, third.length) == (None, "model")


def test_a_json_list_and_a_text(tmp_path: Path) -> None:
    rows = ["a.mp4", {"clip": "b.mp4", "takes": 2, "seconds": None}, {"clip": "c.mp4", "seconds": 1}]
    for content in (rows, {"clips": rows}):
        (tmp_path / "list.json").write_text(json.dumps(content))
        tasks = tasks_of(tmp_path / "list.json", (RIG, Path("mage.glb")))
        assert [each.name for each in tasks] == [f"{clip}_{rig}" for clip in "abc" for rig in ("knight", "mage")]
        assert [each.position for each in tasks] == [0, 0, 1, 1, 2, 2]
        assert tasks[2].seeds == (0, 1) and tasks[4].seconds == 1.0
    (tmp_path / "list.txt").write_text("# all\na b.mp4\n\nc.mp4\n")
    assert [each.clip.name for each in tasks_of(tmp_path / "list.txt")] == ["a b.mp4", "c.mp4"]


def test_several_seeds_and_takes() -> None:
    base = Defaults((RIG,), takes=2, seeds=(0, 1, 10))
    (one,) = batch._tasks_of({"clip": "a.mp4"}, "row", 0, Path("/x"), base)
    assert one.seeds == (0, 1, 2, 10, 11)


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("l.csv", "film,rig\na.mp4,b.fbx\n", "'film' is none"),
        ("l.csv", "rig\nb.fbx\n", "'clip' is missing"),
        ("l.csv", "clip,clip\na,b\n", "a column twice"),
        ("l.csv", "clip,takes\na.mp4\n", "line 2: there are not 2 columns"),
        ("l.csv", "clip,takes\na.mp4,2.5\n", "line 2: 'takes' is a whole number, not '2.5'"),
        ("l.csv", "clip,takes\na.mp4,0\n", "at least 1 take"),
        ("l.csv", "clip,seconds\na.mp4,-1\n", "'seconds' is a number above 0"),
        ("l.csv", "clip,seconds\na.mp4,nan\n", "'seconds' is a number above 0"),
        ("l.csv", "clip,seed\na.mp4,x\n", "'seed' is a whole number"),
        ("l.csv", "clip,seed\n,4\n", "line 2 names no clip"),
        ("l.csv", 'clip\n"a.mp4\n', "unexpected end of data"),
        ("l.csv", "", "'clip' is missing"),
        ("l.csv", "clip\n", "has no clips"),
        ("l.json", "{", "is not JSON"),
        ("l.json", "3", "has to be a list"),
        ("l.json", '[{"clip": 3}]', "'clip' is a path, not 3"),
        ("l.json", '[["a"]]', "clip 1: give a path"),
        ("l.json", '[{"clip": "a", "takes": true}]', "'takes' is a whole number"),
        ("l.yaml", "- a", "is no list"),
        ("none.csv", None, "There is no folder or list"),
    ],
)
def test_lists_that_cannot_be_understood(tmp_path: Path, name: str, text: str | None, sentence: str) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match=sentence):
        tasks_of(tmp_path / name)


def test_a_clip_needs_a_rig(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("clip,rig\na.mp4,x.fbx\nb.mp4,\n")
    with pytest.raises(UsageError, match="line 3 names no rig"):
        tasks_of(tmp_path / "l.csv", ())


_NAMES = st.text(st.sampled_from("aAbé .:?_-/\\\ud800\n"), min_size=1, max_size=12)


@given(st.lists(st.tuples(_NAMES, st.integers(0, 2), st.sampled_from(["", "mp4", "MOV"])), min_size=1, max_size=8))
def test_no_two_tasks_write_the_same_file(rows: list[tuple[str, int, str]]) -> None:
    """Whatever the clips are called, and on disks where upper and lower case are the same."""
    found = []
    for position, (name, seed, suffix) in enumerate(rows):
        row = {"clip": f"{name}.{suffix}" if suffix else name, "seed": seed, "takes": 2}
        found += batch._tasks_of(row, "row", position, Path("/list"), Defaults((RIG, Path("KNIGHT.fbx"))))
    tasks = batch._distinct(found)
    stems = [each.stem(seed).casefold() for each in tasks for seed in each.seeds]
    assert len(set(stems)) == len(stems)
    assert len({each.key for each in tasks}) == len(tasks)
    for stem in stems:
        assert stem.isprintable() and not set(stem) & set('<>:"\\|?*')
        assert all(part and part == part.strip(" .") for part in stem.split("/"))
    assert [each.name for each in batch._distinct(found)] == [each.name for each in tasks]


def test_clips_that_differ_in_their_suffix_alone(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mov", "b.mp4", "con.mp4", "x" * 200 + ".mp4"):
        (tmp_path / name).touch()
    names = [each.name for each in tasks_of(tmp_path)]
    assert names[:4] == ["a_knight_mov", "a_knight_mp4", "b_knight", "con_knight"]
    assert len(names[4].encode()) <= 150


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 3))
def test_shards_share_the_list(rows: int, count: int, rigs: int) -> None:
    tasks = [Task(i, f"{i}_{j}", Path("a"), RIG, None, None, (0,), None) for i in range(rows) for j in range(rigs)]
    parts = [batch.shard(tasks, *batch.read_shard(f"{index}/{count}")) for index in range(1, count + 1)]
    assert sorted(each.name for part in parts for each in part) == sorted(each.name for each in tasks)
    assert max(map(len, parts)) - min(map(len, parts)) <= rigs
    for index, part in enumerate(parts):  # the rigs of a clip stay together
        assert {each.position % count for each in part} <= {index}


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "-1/4", "1/0"])
def test_shards_that_are_none(text: str) -> None:
    with pytest.raises(UsageError, match="A shard is given as"):
        batch.read_shard(text)


# --- The board ---


def test_a_task_from_claim_to_end(tmp_path: Path) -> None:
    with Board(tmp_path) as one, Board(tmp_path) as two:
        claim = one.claim(task("a"), always)
        assert claim is not None and two.claim(task("a"), always) is None
        assert one.claim(task("a"), always) is None
        assert two.state(task("a"), always)[0] == "busy"
        assert one.end(claim, {"state": "done", "files": []})
        assert two.state(task("a"), always)[0] == "done"
        assert two.claim(task("a"), always) is None
        # What is done about other inputs is free again.
        again = two.claim(task("a"), lambda record: False)
        assert again is not None and again.number == claim.number + 2


def test_a_failure_is_tried_again_by_the_next_start_alone(tmp_path: Path) -> None:
    with Board(tmp_path) as one:
        claim = one.claim(task("a"), always)
        assert claim and one.end(claim, {"state": "failed", "error": "bad"})
        assert one.state(task("a"), always)[0] == "failed"
        time.sleep(0.02)
        with Board(tmp_path) as later:  # a second worker of the same batch, started a little later
            assert later.claim(task("a"), always) is None
    time.sleep(0.02)
    with Board(tmp_path) as again:
        assert again.claim(task("a"), always) is not None


def test_what_is_given_back_is_free_at_once(tmp_path: Path) -> None:
    with Board(tmp_path) as one, Board(tmp_path) as two:
        claim = one.claim(task("a"), always)
        assert claim is not None
        one.release(claim)
        after = two.claim(task("a"), always)
        assert after is not None and after.number == 1 and two.crashes(after) == 0
    with Board(tmp_path) as three:  # ``close`` gives back as well
        assert three.claim(task("a"), always) is not None


def test_a_silent_worker_is_replaced_and_cannot_end_the_task(tmp_path: Path) -> None:
    """As from another machine, whose processes cannot be looked at: the clock of the folder decides."""
    one, two = Board(tmp_path, stale=0.5, beat=100.0), Board(tmp_path, stale=0.5)
    one.host = "elsewhere"
    one._stop.set()  # it hangs
    one._thread.join()
    claim = one.claim(task("a"), always)
    assert claim is not None
    assert two.claim(task("a"), always) is None
    time.sleep(0.6)
    after = two.claim(task("a"), always)
    assert after is not None and two.crashes(after) == 1
    assert not one.end(claim, {"state": "done", "files": []})
    assert two.end(after, {"state": "done", "files": []})
    assert one.state(task("a"), always)[0] == "done"
    one.close()
    two.close()


def test_a_worker_that_lives_keeps_its_claim(tmp_path: Path) -> None:
    with Board(tmp_path, stale=0.4) as one, Board(tmp_path, stale=0.4) as two:
        one.host = "elsewhere"
        assert one.claim(task("a"), always)
        for _ in range(6):
            time.sleep(0.2)
            assert two.claim(task("a"), always) is None


_LOST = """
import sys, time
from pathlib import Path
from hero_core.batch import Board, Task
board = Board(Path(sys.argv[1]))
task = Task(0, "a", Path("/clips/a.mp4"), Path("/rigs/knight.blend"), None, None, (0,), None)
assert board.claim(task, lambda _: True)
print("claimed", flush=True)
time.sleep(60)
"""


def test_the_claim_of_a_killed_process_is_free_at_once(tmp_path: Path) -> None:
    """And one clip that takes every process with it is told from that."""
    with Board(tmp_path) as board:
        for number in range(batch.CRASHES):
            lost = subprocess.Popen([sys.executable, "-c", _LOST, tmp_path], cwd=ROOT, stdout=subprocess.PIPE)
            assert lost.stdout is not None and lost.stdout.readline() == b"claimed\n"
            assert board.state(task("a"), always)[:2] == ("busy", number)
            lost.kill()
            lost.wait()
            lost.stdout.close()
        claim = board.claim(task("a"), always)
        assert claim is not None and board.crashes(claim) == batch.CRASHES


def _hammer(folder: str, names: list[str], log: str, seed: int) -> None:
    """One worker: every task that it gets is a line in its log."""
    with Board(Path(folder), stale=30.0) as board, Path(log).open("a") as out:
        for name in sorted(names, key=lambda name: hash((name, seed))):
            claim = board.claim(task(name), always)
            if claim is not None:
                out.write(f"{name}\n")
                time.sleep(0.001)
                assert board.end(claim, {"state": "done", "files": []})


@pytest.mark.parametrize("links", [True, False])
def test_many_workers_never_do_a_task_twice(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes on disks with hard links; threads on a disk that has none."""
    names, folder = [f"t{i}" for i in range(60)], tmp_path / "out"
    folder.mkdir()
    logs = [str(tmp_path / f"log{i}") for i in range(6)]
    if links:
        context = multiprocessing.get_context("spawn")
        workers: list[Any] = [
            context.Process(target=_hammer, args=(str(folder), names, log, i)) for i, log in enumerate(logs[:3])
        ]
    else:

        def refused(*_: Any) -> None:
            raise PermissionError(1, "no links here")

        monkeypatch.setattr(os, "link", refused)
        workers = [threading.Thread(target=_hammer, args=(str(folder), names, log, i)) for i, log in enumerate(logs)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    done = [line for log in logs if Path(log).exists() for line in Path(log).read_text().split()]
    assert sorted(done) == sorted(names)
    assert not list(folder.rglob("*.part"))
    with Board(folder) as board:
        assert all(board.state(task(name), always)[0] == "done" for name in names)


def test_an_answer_that_the_network_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The link was made, and the call for it says that there was one already, as network folders do."""
    real = os.link

    def twice(source: Any, target: Any) -> None:
        real(source, target)
        raise FileExistsError

    with Board(tmp_path) as board:
        monkeypatch.setattr(os, "link", twice)
        assert board.claim(task("a"), always) is not None


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(Stopped, match="cannot be written"):
        Board(tmp_path / "out")
    assert "is full; make room and start again" in batch.cannot_write(tmp_path, OSError(28, "No space left"))


def test_alive() -> None:
    assert batch.alive(os.getpid(), batch._born(os.getpid()))
    assert batch.alive(None) and batch.alive("x")
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    assert not batch.alive(gone.pid)
    if Path("/proc/self/stat").exists():
        assert not batch.alive(os.getpid(), "1")  # its number went to another process
        sleeping = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        sleeping.send_signal(signal.SIGKILL)
        time.sleep(0.2)
        assert not batch.alive(sleeping.pid)  # ended, and not waited for yet
        sleeping.wait()


# --- Files ---


@given(st.binary(max_size=400_000), st.integers(0, 399_999))
def test_other_content_is_another_sample(tmp_path_factory: pytest.TempPathFactory, data: bytes, place: int) -> None:
    path = tmp_path_factory.mktemp("sample") / "file"
    path.write_bytes(data)
    was, state = batch.describe(path), path.stat()
    assert batch.unchanged(was, path)
    os.utime(path)
    assert batch.unchanged(was, path)  # touched, or copied elsewhere
    path.write_bytes(data + b"x")
    assert not batch.unchanged(was, path)
    if len(data) <= 64 * 4096 and place < len(data):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(bytes(changed))
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
        assert not batch.unchanged(was, path)
    path.unlink()
    assert not batch.unchanged(was, path) and "missing" in batch.describe(path)


def test_results_that_are_gone_or_changed(tmp_path: Path) -> None:
    path = tmp_path / "night" / "a.glb"
    path.parent.mkdir()
    path.write_bytes(b"first")
    results = [batch.result_of(path, tmp_path)]
    assert results[0]["file"] == "night/a.glb" and batch.there(results, tmp_path)
    os.utime(path)
    assert batch.there(results, tmp_path)
    path.write_bytes(b"other")
    os.utime(path, ns=(1, 1))
    assert not batch.there(results, tmp_path)
    path.unlink()
    assert not batch.there(results, tmp_path) and not batch.there(None, tmp_path)


def test_the_manifest_is_whole_whenever_it_is_read(tmp_path: Path) -> None:
    tasks = [task(f"t{i}") for i in range(30)]
    stop, bad = threading.Event(), []

    def watch() -> None:
        while not stop.is_set():
            try:
                assert len(json.loads((tmp_path / "manifest.json").read_bytes())["tasks"]) == 30
            except FileNotFoundError:
                pass
            except (ValueError, AssertionError) as err:
                bad.append(err)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with Board(tmp_path) as one, Board(tmp_path) as two:
        manifests = Manifest(one, tasks, {"hero": "0"}), Manifest(two, tasks, {"hero": "0"})
        for number, each in enumerate(tasks):
            board = (one, two)[number % 2]
            claim = board.claim(each, always)
            assert claim and board.end(claim, {"state": "failed" if number == 3 else "done", "error": "bad"})
            manifests[number % 2].write(now=True)
    stop.set()
    watcher.join()
    assert not bad
    whole = json.loads((tmp_path / "manifest.json").read_bytes())
    assert whole["counts"] == {"done": 29, "failed": 1}
    assert [entry["name"] for entry in whole["tasks"]] == [each.name for each in tasks]
    assert whole["tasks"][3]["error"] == "bad"


# --- Progress ---


def test_progress_without_a_terminal_is_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    bar = ProgressBar(10, 2, stream)
    bar.show(2)
    now[0] += 10
    bar.show(4, what="lion")  # too early for a second line
    now[0] += 30
    bar.show(6, 1, "lion")
    bar.say("note")
    bar.show(10, 1, last=True)
    assert stream.getvalue().splitlines() == [
        "[####................] 2/10, time left not known yet",
        "[############........] 6/10, 1 failed, 00:40 left  lion",
        "note",
        "[####################] 10/10, 1 failed",
    ]
    assert batch.clock(3723) == "1:02:03"


def test_progress_on_a_terminal_is_one_line() -> None:
    class Terminal(io.StringIO):
        encoding = "ascii"  # type: ignore[assignment]

        def isatty(self) -> bool:
            return True

    stream = Terminal()
    bar = ProgressBar(2, 0, stream)
    bar.show(0, what="löwe")
    bar.show(2, last=True)
    assert stream.getvalue().count("\n") == 1 and "l\\xf6we" in stream.getvalue()

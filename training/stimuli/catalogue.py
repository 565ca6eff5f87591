# SPDX-License-Identifier: GPL-3.0-or-later
"""What happens in front of the reactor, and what people do then.

``REACTIONS`` names recordings by what they show. ``STIMULI`` names the classes in ViMo's spirit: the recordings that
the actor plays, and how fitting each kind of reaction is. A recording belongs to one split (its file says which); clips
of a split are made of recordings of that split alone, so a kind of reaction exists in a split only if a recording of it
does.
"""

from __future__ import annotations

from dataclasses import dataclass

CC0, CMU, HIFI, EXTRA, PAIRS = "cc0_actions22", "cmu22", "hifi_apache22", "cmu_extra22", "cmu_pairs22"


@dataclass(frozen=True)
class Source:
    """A window of a recording.

    start, length: frames (None = to its end). turn: degrees the body turns as this part begins. reverse:
    played backwards.
    """

    file: str
    name: str
    start: int = 0
    length: int | None = None
    reverse: bool = False
    turn: float = 0.0


def _of(file: str, *names: str, **how: object) -> tuple[Source, ...]:
    return tuple(Source(file, name, **how) for name in names)  # type: ignore[arg-type]


_WALKS = (
    "02_01",
    "02_02",
    "07_01",
    "07_02",
    "07_03",
    "07_06",
    "07_07",
    "07_08",
    "07_09",
    "07_10",
    "07_12",
    "05_01",
    "06_01",
    "07_11",
)
_SLOW = ("07_03", "07_04", "07_05", "05_01", "06_01")
_RUNS = ("02_03", "09_02", "09_06", "09_07", "127_06", "127_07", "127_08", "16_35", "09_04")
_CURVED_RUNS = ("16_52", "16_38", "16_39", "16_40", "16_48", "16_49", "127_09", "127_10", "127_15", "127_16")

# A kind of reaction -> recordings of it. Each starts with the body towards the stimulus (+Z).
REACTIONS: dict[str, tuple[Source, ...]] = {
    "stand": _of(CC0, "M2M_Idle_Loop", "KK11_Idle_A", "KK11_Idle_B", "QUAC_Idle", "M2M_Idle", "KK11_Holding_A+idle")
    + _of(HIFI, "HIFI_idle"),
    "listen": _of(CC0, "M2M_Idle_Listening", "M2M_Head_Nod"),
    "talk": _of(CC0, "M2M_Idle_Talking_Loop") + _of(HIFI, "HIFI_talk"),
    "greet": _of(CC0, "KK11_Waving", "M2M_Greeting") + _of(EXTRA, "directing_traffic_4"),
    "bow": _of(CC0, "M2M_Bow"),
    "cheer": _of(CC0, "KK11_Cheering", "M2M_Victory+idle", "M2M_Victory_Fist_Pump+idle", "QUAC_Victory+idle"),
    "reach out": _of(CC0, "KK11_Interact+idle", "M2M_Interact+idle"),
    "walk to meet": _of(HIFI, "HIFI_walk_short_fwd") + _of(CMU, "07_04", "07_05") + _of(CC0, "M2M_Walk_Formal_Loop"),
    "dance": _of(CC0, "M2M_Dance_Loop", "M2M_Dance_Charleston", "M2M_Dance_Reach_Hip"),
    "reject": _of(CC0, "M2M_Reject"),
    "angry back": _of(CC0, "M2M_Angry+idle"),
    "puzzled": _of(CC0, "M2M_Confused+idle"),
    "hang the head": _of(CC0, "QUAC_Defeat+idle", "M2M_Tired_Hunched"),
    "step back": _of(HIFI, "HIFI_walk_bwd", "HIFI_walk_short_bwd") + _of(CMU, *_SLOW, reverse=True),
    "jump back": _of(CC0, "KK11_Dodge_Backward+idle") + _of(CC0, "KK11_Dodge_Forward+idle", reverse=True),
    "dodge aside": _of(CC0, "KK11_Dodge_Left+idle", "KK11_Dodge_Right+idle"),
    "step aside": _of(HIFI, "HIFI_side_step_left", "HIFI_side_step_right"),
    "block": _of(CC0, "KK11_Melee_Block+idle", "KK11_Melee_Blocking", "KK11_Melee_Block_Hit"),
    "guard": _of(CC0, "M2M_Fighting_Idle", "M2M_Punch_Enter+idle", "KK11_Melee_Unarmed_Idle"),
    "cower": _of(CC0, "M2M_Defend", "KK11_Crouching", "M2M_Crouch_Idle_Loop", "M2M_Kneeling_Tired"),
    "fight back": _of(
        CC0,
        "M2M_Fighting_Left_Jab+idle",
        "M2M_Fighting_Right_Jab+idle",
        "M2M_Punch_Cross+idle",
        "M2M_Punch_Jab+idle",
        "KK11_Melee_Unarmed_Attack_Punch_A",
        "KK11_Melee_Unarmed_Attack_Kick",
    ),
    "take the blow": _of(
        CC0, "KK11_Hit_A+idle", "KK11_Hit_B+idle", "M2M_Hit_Chest+idle", "M2M_Hit_Head+idle", "QUAC_RecieveHit+idle"
    ),
    "fall": _of(CC0, "KK11_Death_A+idle", "KK11_Death_B+idle", "M2M_Death01+idle", "QUAC_Death+idle"),
    "run away": _of(CMU, *_RUNS, turn=165.0) + _of(CMU, *_CURVED_RUNS, turn=120.0),
    "run aside": _of(CMU, *_RUNS, turn=80.0),
    "walk away": _of(CMU, *_WALKS, turn=160.0),
    "jump": _of(CMU, "13_39", "13_40", "13_41", "13_42", "humanoid3d_jump")
    + _of(CC0, "KK11_Jump_Full_Short+idle", "QUAC_Jump+idle"),
    "duck": _of(CMU, "127_23", "127_24", "127_31", "127_32"),
    "roll": _of(CMU, "humanoid3d_roll"),
    "crouch to touch": _of(CC0, "KK11_PickUp+idle", "QUAC_PickUp+idle"),
    "kick a ball": _of(CMU, "10_05", "10_06", "11_01", "humanoid3d_kick"),
    "dizzy": _of(CC0, "M2M_Dizzy"),
}

# Standing still until it happens; a split that has none begins its reactions at once.
WAITING = _of(HIFI, "HIFI_idle") + _of(
    CC0, "M2M_Idle_Loop", "KK11_Idle_A", "KK11_Idle_B", "M2M_Idle", "KK11_Holding_A+idle"
)


# Hand signals to whom it may concern: who sees them looks on.
SIGNALS = _of(
    EXTRA,
    *(f"basketball_signal_{i}" for i in range(1, 6)),
    "directing_traffic_1_p0",
    "directing_traffic_1_p1",
    "directing_traffic_1_p2",
    "directing_traffic_1_p3",
)


@dataclass(frozen=True)
class Stimulus:
    """A class of clips.

    broad: ``human``, ``animal`` or ``scene``, the paper's three broad categories. actions: what the actor does.
    walks: how it comes near (empty = it stands). reactions: kind -> weight. mood: posture of the approach.
    """

    broad: str
    reactions: dict[str, float]
    actions: tuple[Source, ...] = ()
    walks: tuple[Source, ...] = ()
    mood: str = ""


STIMULI: dict[str, Stimulus] = {
    "approach_calmly": Stimulus(
        "human",
        {"listen": 3, "stand": 2, "talk": 2, "greet": 1},
        walks=_of(CMU, *_WALKS, *_SLOW)
        + _of(HIFI, "HIFI_walk_fwd")
        + _of(CC0, "KK11_Walking_A", "KK11_Walking_C", "M2M_Walk_Loop", "M2M_Walk_Formal_Loop"),
        mood="calm",
    ),
    "approach_happily": Stimulus(
        "human",
        {"greet": 4, "cheer": 2, "walk to meet": 3, "reach out": 1},
        walks=_of(CMU, *_WALKS),
        mood="happy",
    ),
    "approach_angrily": Stimulus(
        "human",
        {"step back": 2, "reject": 2, "hang the head": 2, "walk away": 2, "puzzled": 1, "guard": 1},
        walks=_of(CMU, *_WALKS),
        mood="angry",
    ),
    "wave": Stimulus(
        "human",
        {"greet": 6, "bow": 1, "walk to meet": 1},
        actions=_of(CC0, "KK11_Waving", "M2M_Greeting") + WAITING,
    ),  # who merely stands raises an arm: scenes.gesture
    "hand_out": Stimulus(
        "human", {"reach out": 6, "walk to meet": 2, "bow": 1}, actions=WAITING, walks=_of(CMU, *_WALKS)
    ),
    "bow": Stimulus("human", {"bow": 5, "greet": 1, "stand": 1}, actions=_of(CC0, "M2M_Bow")),
    "cheer": Stimulus("human", {"cheer": 4, "dance": 2, "jump": 1}, actions=REACTIONS["cheer"] + REACTIONS["dance"]),
    "chat": Stimulus("human", {"talk": 3, "listen": 3, "stand": 1}, actions=REACTIONS["talk"] + REACTIONS["listen"]),
    "pass_by": Stimulus(
        "human",
        {"stand": 5, "talk": 0.5, "listen": 1},
        walks=_of(CMU, *_WALKS)
        + _of(HIFI, "HIFI_walk_fwd")
        + _of(CC0, "KK11_Walking_A", "M2M_Walk_Loop", "M2M_Walk_Formal_Loop"),
    ),
    "quiet": Stimulus("scene", {"stand": 6, "listen": 1, "puzzled": 0.5}),  # a place where nothing happens
    "salsa": Stimulus("human", {}),  # true pairs: the reaction is what the partner did
    "punch": Stimulus(
        "human",
        {"take the blow": 4, "block": 3, "guard": 2, "fight back": 1},
        walks=_of(CMU, *_WALKS),
        actions=_of(
            CC0,
            "KK11_Melee_Unarmed_Attack_Punch_A",
            "M2M_Punch_Cross+idle",
            "M2M_Punch_Jab+idle",
            "M2M_Fighting_Left_Jab+idle",
            "M2M_Fighting_Right_Jab+idle",
            "QUAC_Punch",
        )
        + _of(CMU, "humanoid3d_punch"),
    ),
    "kick": Stimulus(
        "human",
        {"jump back": 5, "guard": 1, "dodge aside": 1},
        walks=_of(CMU, *_WALKS),
        actions=_of(CC0, "KK11_Melee_Unarmed_Attack_Kick") + _of(CMU, "humanoid3d_kick", "10_05", "10_06", "11_01"),
    ),
    "push": Stimulus(
        "human",
        {"step back": 5, "angry back": 2, "take the blow": 1},
        walks=_of(CMU, *_WALKS),
        actions=WAITING,
    ),
    "throw": Stimulus(
        "human",
        {"duck": 3, "dodge aside": 3, "cower": 1},
        actions=_of(CC0, "KK11_Throw+idle", "M2M_Throw_Object+idle"),
    ),
    "ball": Stimulus("scene", {"kick a ball": 3, "block": 2, "take the blow": 2}),
    "creature_calm": Stimulus("animal", {"crouch to touch": 5, "reach out": 1, "stand": 2}),
    "creature_charge": Stimulus("animal", {"run away": 6, "jump back": 1, "cower": 1}),
    "vehicle": Stimulus("scene", {"run aside": 5, "dodge aside": 3, "roll": 2}),
    "explosion": Stimulus(
        "scene",
        {"cower": 4, "fall": 3, "dizzy": 1, "roll": 1},
    ),
}

# What came nearer, shown backwards: it goes away.
GOING = Stimulus("scene", {"stand": 4, "listen": 1, "greet": 1, "puzzled": 0.5, "talk": 0.5})

# Classes whose reactions are much alike, for the evaluation.
GROUPS: dict[str, str] = {
    "approach_calmly": "meet",
    "approach_happily": "greet",
    "approach_angrily": "threatened",
    "wave": "greet",
    "hand_out": "greet",
    "bow": "greet",
    "cheer": "cheer",
    "chat": "meet",
    "pass_by": "calm",
    "quiet": "calm",
    "retreat": "calm",
    "salsa": "dance",
    "punch": "attacked",
    "kick": "attacked",
    "push": "attacked",
    "throw": "attacked",
    "ball": "attacked",
    "creature_calm": "animal",
    "creature_charge": "endangered",
    "vehicle": "endangered",
    "explosion": "endangered",
}

"""The walk that writes the plays: play, scene, speech, line; every choice through the Chooser."""

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeVar

from data.pastiche import matters, prose, verse
from data.pastiche.forms import FIELDS, Filler
from data.pastiche.grammar import (
    LOOSE,
    PROSE,
    STRICT,
    Bindings,
    Chooser,
    Combo,
    Template,
    combos,
    pool,
    realise,
)
from data.pastiche.plays import ALL_PLAYS, Play, Speaker

T = TypeVar("T")

ACTS = {"where": 3, "who": 2, "why": 3, "whether": 3, "bid": 4, "charge": 3, "news": 3, "vow": 3, "saw": 3, "broken": 1}
"""What a speech does with its last line, and how often."""

PLANS: dict[tuple[str, ...], int] = {
    ("short",): 22,
    ("head",): 8,
    ("short", "tail"): 6,
    ("head", "tail"): 12,
    ("head", "body", "tail"): 13,
    ("head", "body", "body", "tail"): 12,
    ("head",) + ("body",) * 3 + ("tail",): 7,
    ("head",) + ("body",) * 5 + ("tail",): 4,
}
PROSE_PLANS: dict[tuple[str, ...], int] = {
    ("short",): 16,
    ("head",): 8,
    ("short", "tail"): 7,
    ("head", "tail"): 11,
    ("head", "body"): 6,
    ("head", "body", "tail"): 9,
}
"""The parts of a speech, and how often: for verse and for prose."""

PROSE_WIDTH = 62
KEYS, NAMES, RECENT, SCENES_PER_PLAY, SPEECHES = 8, 3, 12, (5, 6, 7, 8, 9), tuple(range(8, 23))

VERSE_POOLS = {name: pool(block) for name, block in {**verse.HEADS, **verse.TAILS, **verse.BODIES}.items()}
PROSE_POOLS = {name: pool(block) for name, block in {**prose.HEADS, **prose.TAILS, **prose.BODIES}.items()}
SHORT_POOLS = {name: pool(block) for name, block in prose.SHORT.items()}
VERSE_MATTERS = {name: pool(block) for name, block in matters.VERSE.items()}
PROSE_MATTERS = {name: pool(block) for name, block in matters.PROSE.items()}


@dataclass(frozen=True)
class Speech:
    """One speech as printed; `scene_bits` are those of its bits spent on what the scene keeps to itself (play,
    matter, cast, length) before it begins."""

    text: str
    bits: float
    scene_bits: float


@dataclass(frozen=True)
class Way:
    """A template with the bindings under which it has the metre."""

    template: Template
    combos: list[Combo]
    metre: str


@dataclass
class Scene:
    """What a scene's lines may speak of, and what has been said."""

    matter: str
    present: list[Speaker]
    names: list[Filler]
    towns: tuple[Filler, ...]
    keys: list[Filler]
    topic: Filler
    act: str = "open"
    spoken: list[Speaker] = field(default_factory=list)
    recent: list[str] = field(default_factory=list)
    possible: dict[tuple[str, str, Filler, Filler], list[Way]] = field(default_factory=dict)


def write(chooser: Chooser) -> Iterator[Speech]:
    """Speeches without end."""
    play, matter = None, ""
    while True:
        before = chooser.bits
        play = chooser.pick([other for other in ALL_PLAYS if other is not play])
        for _ in range(chooser.pick(SCENES_PER_PLAY)):
            matter = chooser.pick([other for other in FIELDS if other != matter])
            scene, speeches = _begin(chooser, play, matter), chooser.pick(SPEECHES)
            for number in range(speeches):
                scene_bits = 0.0 if scene.spoken else chooser.bits - before
                text = _speech(chooser, scene, last=number == speeches - 1)
                yield Speech(text, chooser.bits - before, scene_bits)
                before = chooser.bits


def _begin(chooser: Chooser, play: Play, matter: str) -> Scene:
    present = _draw(chooser, play.cast, chooser.pick((2, 3, 4), (5, 3, 2)))
    absent = [speaker.called for speaker in play.cast if speaker not in present]
    keys = _draw(chooser, FIELDS[matter], KEYS)
    return Scene(matter, present, _draw(chooser, absent, NAMES), play.towns, keys, keys[0])


def _draw(chooser: Chooser, items: list[T] | tuple[T, ...], count: int) -> list[T]:
    """`count` different items, in the order of `items`: a set, so that no bits go to its order."""
    chosen: list[T] = []
    for index, item in enumerate(items):
        needed = count - len(chosen)
        left = len(items) - index
        if needed and (needed == left or chooser.pick((True, False), (needed, left - needed))):
            chosen.append(item)
    return chosen


def _speech(chooser: Chooser, scene: Scene, last: bool) -> str:
    """One speech with its heading."""
    before = scene.spoken[-1] if scene.spoken else None
    others = [speaker for speaker in scene.present if speaker is not before]
    # The one who spoke before the last is likeliest to answer.
    weights = [4 if scene.spoken[-2:-1] == [speaker] else 1 for speaker in others]
    speaker = chooser.pick(others, weights)
    if before is None:
        plan, act = _opening(chooser, speaker)
    else:
        plan = chooser.pick(*zip(*(PROSE_PLANS if speaker.metre == PROSE else PLANS).items(), strict=True))
        act = chooser.pick(*zip(*ACTS.items(), strict=True)) if plan[-1] == "tail" else "retort"
        if last and speaker.metre != PROSE:
            plan, act = (*plan[:-1], "close") if plan[-1] == "tail" else (*plan, "close"), "close"
    listener = before or chooser.pick([other for other in scene.present if other is not speaker])
    lines: list[str] = []
    for part in plan:
        name = f"{part}:{act if part == 'tail' else scene.act}" if part in ("short", "head", "tail") else part
        lines += _lines(chooser, scene, speaker, listener, name)
    scene.act = act
    scene.spoken.append(speaker)
    if speaker.metre == PROSE:
        lines = textwrap.wrap(" ".join(lines), PROSE_WIDTH, break_on_hyphens=False, break_long_words=False)
    return f"{speaker.heading}:\n" + "\n".join(lines)


def _opening(chooser: Chooser, speaker: Speaker) -> tuple[tuple[str, ...], str]:
    """Who begins a scene greets the listener, or (in verse) thinks aloud and is overheard."""
    if speaker.metre != PROSE and chooser.pick((True, False), (3, 7)):
        return ("muse", *("body",) * chooser.pick((4, 5, 6, 7, 8)), "tail"), "saw"
    bodies = chooser.pick((0, 1, 2, 3) if speaker.metre != PROSE else (0, 1))
    return ("open", *("body",) * bodies, "tail"), chooser.pick(*zip(*ACTS.items(), strict=True))


def _lines(chooser: Chooser, scene: Scene, speaker: Speaker, listener: Speaker, name: str) -> tuple[str, ...]:
    """The line or lines of one part of a speech; notes the topic that it names."""
    metre = PROSE if name.startswith("short") else speaker.metre
    key = (name, metre, scene.topic, listener.called)
    if key not in scene.possible:
        bindings: Bindings = {
            "topic": [scene.topic],
            "key": [noun for noun in scene.keys if noun != scene.topic],
            "you": [listener.called, Filler("friend", "?"), Filler("gossip", "10")],
            "name": scene.names,
            "town": scene.towns,
        }
        scene.possible[key] = _possible(_pool(scene, name, metre), bindings, metre)
    possible = scene.possible[key]
    fresh = [way for way in possible if way.template.source not in scene.recent] or possible
    way = chooser.pick(fresh)
    realised = realise(chooser, way.template, chooser.pick(way.combos), way.metre)
    scene.recent = [*scene.recent[-RECENT + 1 :], way.template.source]
    scene.topic = realised.topic or scene.topic
    return realised.lines


def _possible(templates: list[Template], bindings: Bindings, metre: str) -> list[Way]:
    """The ways to say a line in the speaker's metre, or, where fewer than three fit, in the next freer one."""
    metres = {STRICT: (STRICT, LOOSE, PROSE), LOOSE: (LOOSE, STRICT, PROSE), PROSE: (PROSE,)}[metre]
    ways: list[Way] = []
    for freer in metres:
        found = ((template, combos(template, bindings, freer)) for template in templates)
        ways = [Way(template, bound, freer) for template, bound in found if bound]
        if len(ways) >= 3:
            break
    return ways


def _pool(scene: Scene, name: str, metre: str) -> list[Template]:
    if name.startswith("short"):
        return SHORT_POOLS[name]
    pools, matter = (PROSE_POOLS, PROSE_MATTERS) if metre == PROSE else (VERSE_POOLS, VERSE_MATTERS)
    return pools[name] + (matter[scene.matter] if name == "body" else [])

"""Sentences about scenes: written for training, and understood when a user types a prompt.

The model knows a few dozen words. `caption` writes varied sentences with them; `interpret` brings a free
prompt into that language: known synonyms and misspellings are replaced, the rest is left out, and the user
is told.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass

import numpy as np

from latentcast.diffusion.scenes.scene import COLOURS, FLOORS, SHAPES, SKIES, Scene
from latentcast.errors import ParameterError

__all__ = ["VOCABULARY", "Interpretation", "caption", "full_caption", "interpret"]

_FLOOR_PHRASES = {
    "plain": ("on a plain floor", "on a plain ground"),
    "checkered": ("on a checkered floor", "on checkered tiles"),
    "wooden": ("on a wooden floor", "on wooden planks"),
}
_SKY_PHRASES = {
    "day": ("by day", "under a day sky"),
    "dusk": ("at dusk", "under a dusk sky"),
    "night": ("at night", "under a night sky"),
}
_RELATION_PHRASES = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "in front of": ("in front of",),
    "behind": ("behind",),
}

VOCABULARY = tuple(
    sorted(
        {"a", "an", "and", "with", ","}
        | {*COLOURS, *SHAPES, *FLOORS, *SKIES}
        | {
            word
            for phrases in (_FLOOR_PHRASES, _SKY_PHRASES, _RELATION_PHRASES)
            for variants in phrases.values()
            for variant in variants
            for word in variant.split()
        }
    )
)
"""Every word that a caption can contain."""

# What people say for what the model knows.
_SYNONYMS = {
    **dict.fromkeys(("ball", "globe", "orb", "marble", "balloon", "bubble", "planet", "circle"), "sphere"),
    **dict.fromkeys(("box", "block", "dice", "die", "square", "brick", "cuboid", "crate"), "cube"),
    **dict.fromkeys(("can", "tube", "barrel", "pipe", "drum", "column", "pillar", "tin", "cup"), "cylinder"),
    **dict.fromkeys(("crimson", "scarlet", "ruby", "maroon", "vermilion", "cherry"), "red"),
    **dict.fromkeys(("amber", "tangerine", "apricot", "rust"), "orange"),
    **dict.fromkeys(("gold", "golden", "lemon", "blonde"), "yellow"),
    **dict.fromkeys(("emerald", "lime", "olive", "jade"), "green"),
    **dict.fromkeys(("turquoise", "teal", "aqua"), "cyan"),
    **dict.fromkeys(("navy", "azure", "sapphire", "cobalt"), "blue"),
    **dict.fromkeys(("violet", "magenta", "lilac", "indigo", "lavender", "pink"), "purple"),
    **dict.fromkeys(("silver", "grey", "gray", "ivory", "pale"), "white"),
    **dict.fromkeys(
        ("chequered", "checked", "checkerboard", "chess", "chessboard", "tiled", "tile"), "checkered"
    ),
    **dict.fromkeys(("wood", "plank", "timber", "parquet", "oak"), "wooden"),
    **dict.fromkeys(("simple", "bare", "smooth", "empty", "concrete"), "plain"),
    **dict.fromkeys(("daytime", "daylight", "noon", "sunny", "midday", "morning"), "day"),
    **dict.fromkeys(("sunset", "sunrise", "evening", "twilight", "dawn"), "dusk"),
    **dict.fromkeys(("nighttime", "midnight", "dark", "moonlit", "starry"), "night"),
    **dict.fromkeys(("beside", "near", "plus", "&", "next"), "and"),
    **dict.fromkeys(("before",), "front"),
}
# Words that say the same without a remark: plurals, and the other names of floors that captions use.
_SAME = {shape + "s": shape for shape in SHAPES} | {"tiles": "checkered", "planks": "wooden"}
# Words that carry no meaning for a scene; dropping them needs no remark.
_SILENT = frozenset(
    {"a", "an", "the", "of", "to", "in", "on", "at", "by", "under", "with", "and", "is", "are", "there"}
    | {"some", "one", "it", "its", "that", "this", "photo", "picture", "image", "render", "rendering"}
    | {"scene", "sky", "floor", "ground", ","}
)
# English words that only look like misspellings of known ones.
_OTHER_WORDS = frozenset({"greek", "greet", "pain", "paint", "plan", "plane", "plant", "while"})
# Before a colour these name a shade of it, which the model does not have.
_SHADES = frozenset({"bright", "dark", "deep", "light", "pale"})
# What may stand behind "left of" or "behind" when the thing meant was named before.
_BACKWARD = frozenset({"", ",", "and", "it", "its", "that", "them", "there", "this"})
_EXAMPLES = {"left": "left of", "right": "right of", "front": "in front of", "behind": "behind"}
_COUNTS = {"two": 2, "three": 3, "2": 2, "3": 3}
_KNOWN = {*COLOURS, *SHAPES, *FLOORS, *SKIES, "left", "right", "front", "behind"}
_LIMIT = 3
# Unknown words that a remark names.
_NAMED = 8


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _name(colour: str | None, shape: str) -> str:
    words = f"{colour} {shape}" if colour else shape
    return f"{_article(words)} {words}"


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Write a sentence that is true of a scene.

    The order of mention varies, relations are told from either side, and floor and sky are mentioned in three
    quarters of the sentences each.

    Args:
        scene: what to describe.
        rng: chooses among the many true sentences.

    Returns:
        Lower-case words of `VOCABULARY`.
    """
    return _write(scene, rng, 0.75)


def full_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Write a sentence that leaves nothing out: every clear relation, the floor and the sky."""
    return _write(scene, rng, 1.0)


def _write(scene: Scene, rng: np.random.Generator, mention: float) -> str:
    def pick(phrases: tuple[str, ...]) -> str:
        return phrases[rng.integers(len(phrases))]

    order = [int(i) for i in rng.permutation(len(scene.objects))]
    names = [_name(scene.objects[i].colour, scene.objects[i].shape) for i in order]
    text = names[0]
    for position in range(1, len(order)):
        held = scene.relations(order[position - 1], order[position])
        last = position == len(order) - 1
        told = held and rng.random() < mention
        link = pick(_RELATION_PHRASES[held[0]]) if told else ("and" if last else ",")
        text += f" {link} {names[position]}"
    if rng.random() < mention:
        text += " " + pick(_FLOOR_PHRASES[scene.floor])
    if rng.random() < mention:
        text += " " + pick(_SKY_PHRASES[scene.sky])
    return text


@dataclass(frozen=True, kw_only=True)
class Interpretation:
    """How a prompt was understood.

    Args:
        caption: the sentence that is given to the model.
        notes: one sentence for every word that was replaced or left out.
    """

    caption: str
    notes: tuple[str, ...]


def _known() -> str:
    return (
        f"the model knows {', '.join(SHAPES)}; {', '.join(COLOURS)}; left of, right of, in front of, behind; "
        f"{', '.join(FLOORS)} floor; day, dusk, night"
    )


def _sense(word: str) -> str | None:
    """Nearest known word: itself, its singular, a synonym, or a likely misspelling; None if there is none."""
    if word in _KNOWN:
        return word
    if word in _SAME:
        return _SAME[word]
    if word in _SILENT:
        return None
    for form in (word, word.removesuffix("s"), word.removesuffix("es"), word.removesuffix("ish")):
        if form in _SYNONYMS:
            return _SYNONYMS[form]
    if len(word) <= 3 or word in _OTHER_WORDS:
        return None
    near = difflib.get_close_matches(word, sorted(_KNOWN), cutoff=0.8)
    # Few misspell the first letter: "light" is not "right".
    return next((known for known in near if known[0] == word[0]), None)


def _relation(word: str, sense: str, before: list[str], after: list[str]) -> str | None:
    """The relation to the thing named next; None if it is to something else, as in "on the left a cube"."""
    if sense != "behind" and word != "before":
        if after[:1] != ["of"]:
            return None
        after = after[1:]
    if (after[0] if after else "") in _BACKWARD:
        return None
    if sense in ("left", "right"):
        return f"{'to the ' if before[-1:] == ['the'] else ''}{sense} of"
    return "in front of" if sense == "front" else sense


def interpret(prompt: str) -> Interpretation:
    """Bring a free prompt into the model's language.

    Args:
        prompt: what the user typed.

    Returns:
        The sentence for the model and what was changed.

    Raises:
        ParameterError: if no shape and no colour is recognised; the message says what the model knows.

    Examples:
        >>> interpret("A crimson ball to the left of a blue cube at sunset!").caption
        'a red sphere to the left of a blue cube at dusk'
        >>> interpret("a red dragon")
        ... # doctest: +NORMALIZE_WHITESPACE
        Interpretation(caption='a red sphere', notes=("'dragon' is not known and was left out",
        'no shape was named: a sphere was chosen'))
    """
    notes: list[str] = []
    unknown: list[str] = []
    objects: list[tuple[str | None, str | None]] = []
    links: list[str] = []
    floor = sky = colour = None
    pending, count = "", 1
    words = re.findall(r"[\w&]+|,", prompt.lower())
    for position, word in enumerate(words):
        count = _COUNTS.get(word, count)
        before, after = words[:position], words[position + 1 :]
        shade = word in _SHADES and after and _sense(after[0]) in COLOURS
        sense = None if shade else _sense(word)
        if sense is None:
            if word not in _SILENT and word not in _COUNTS:
                unknown.append(word)
            continue
        if sense != word and word not in _SAME:
            notes.append(f"'{word}' is understood as '{sense}'")
        if sense in COLOURS:
            if colour is not None:  # "red and blue cubes": the first colour had no shape of its own
                objects.append((colour, None))
                links.append(pending or "and")
                pending = ""
            colour = sense
        elif sense in SHAPES:
            for _ in range(count):
                objects.append((colour, sense))
                links.append(pending or "and")
                pending = ""
            colour, count = None, 1
        elif sense in FLOORS:
            floor = sense
        elif sense in SKIES:
            sky = sense
        elif relation := _relation(word, sense, before, after):
            pending = relation
        elif sense in _EXAMPLES and after:
            notes.append(
                f"'{word}' was left out: what it relates to must follow, as in '{_EXAMPLES[sense]} a cube'"
            )
    if unknown:
        notes.insert(0, _left_out(list(dict.fromkeys(unknown))))
    if colour is not None:
        objects.append((colour, None))
        links.append(pending or "and")
    if not objects:
        raise ParameterError(f"no known thing in the prompt {prompt[:60]!r}: {_known()}")
    return _compose(objects, links, floor, sky, notes)


def _left_out(words: list[str]) -> str:
    """One sentence for all unknown words, however many there are."""
    if len(words) == 1:
        return f"'{words[0]}' is not known and was left out"
    shown, more = words[:_NAMED], len(words) - _NAMED
    named = ", ".join(f"'{word}'" for word in shown) + (f" and {more} other words" if more > 0 else "")
    return f"{named} are not known and were left out"


def _compose(
    objects: list[tuple[str | None, str | None]],
    links: list[str],
    floor: str | None,
    sky: str | None,
    notes: list[str],
) -> Interpretation:
    """Write the sentence, filling in what was not said, as every training sentence says it."""
    shapes = [shape for _, shape in objects if shape]
    complete: list[tuple[str, str]] = []
    for colour, shape in objects[:_LIMIT]:
        if shape is None:
            shape = shapes[0] if shapes else "sphere"
            if not shapes:
                notes.append(f"no shape was named: a {shape} was chosen")
        if colour is None:
            taken = {c for c, _ in [*objects, *complete] if c}
            colour = next(c for c in COLOURS if c not in taken)
            notes.append(f"the {shape} had no colour: {colour} was chosen")
        complete.append((colour, shape))
    if len(objects) > _LIMIT:
        notes.append(
            f"{len(objects)} things were named, the model draws at most {_LIMIT}: the first were kept"
        )
    text = _name(*complete[0])
    for position in range(1, len(complete)):
        last = position == len(complete) - 1
        link = links[position]
        text += f" {',' if link == 'and' and not last else link} {_name(*complete[position])}"
    if floor is not None:
        text += " " + _FLOOR_PHRASES[floor][0]
    if sky is not None:
        text += " " + _SKY_PHRASES[sky][0]
    return Interpretation(caption=text, notes=tuple(dict.fromkeys(notes)))

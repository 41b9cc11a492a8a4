"""What words mean to the embedded model: the nearest of the few dozen words that it knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from latentcast.diffusion.scenes.scene import COLOURS, FLOORS, SHAPES, SKIES

__all__ = ["KNOWN", "OTHER_NAMES", "SILENT", "is_plural", "sense_of"]

KNOWN = frozenset({*COLOURS, *SHAPES, *FLOORS, *SKIES, "left", "right", "front", "behind"})
"""Words with a meaning of their own."""

OTHER_NAMES = {shape + "s": shape for shape in SHAPES} | {"tiles": "checkered", "planks": "wooden"}
"""Words that say the same without a remark: plurals, and the other names of floors that captions use."""

SILENT = frozenset(
    {"a", "an", "the", "of", "to", "in", "on", "at", "by", "under", "with", "and", "is", "are", "there"}
    | {"some", "one", "it", "its", "that", "this", "these", "which", "photo", "picture", "image", "render"}
    | {"rendering", "scene", "sky", "floor", "ground", "colour", "color", "coloured", "colored", "painted"}
    | {"show", "me", "draw", "please", "shape", "shaped", "1", ",", "("}
)
"""Words that carry no meaning for a scene; dropping them needs no remark."""

# What people say for what the model knows.
_SYNONYMS = {
    **dict.fromkeys(("ball", "globe", "orb", "marble", "balloon", "bubble", "planet", "circle"), "sphere"),
    **dict.fromkeys(("basketball", "football", "snowball", "moon", "sun", "pearl", "bead"), "sphere"),
    **dict.fromkeys(("box", "block", "dice", "die", "square", "brick", "cuboid", "crate", "chest"), "cube"),
    **dict.fromkeys(("can", "tube", "barrel", "pipe", "drum", "column", "pillar", "tin", "cup"), "cylinder"),
    **dict.fromkeys(("mug", "bucket", "candle", "disc", "disk", "coin", "puck"), "cylinder"),
    **dict.fromkeys(("crimson", "scarlet", "ruby", "maroon", "vermilion", "cherry"), "red"),
    **dict.fromkeys(("burgundy", "carmine", "rose", "salmon", "coral"), "red"),
    **dict.fromkeys(("amber", "tangerine", "apricot", "rust", "copper", "bronze", "peach"), "orange"),
    **dict.fromkeys(("brown", "tan", "chestnut"), "orange"),
    **dict.fromkeys(("gold", "golden", "lemon", "blonde", "mustard", "beige", "sand"), "yellow"),
    **dict.fromkeys(("emerald", "lime", "olive", "jade", "mint", "khaki", "moss"), "green"),
    **dict.fromkeys(("turquoise", "teal", "aqua", "aquamarine"), "cyan"),
    **dict.fromkeys(("navy", "azure", "sapphire", "cobalt", "cerulean", "ultramarine"), "blue"),
    **dict.fromkeys(("violet", "magenta", "lilac", "indigo", "lavender", "pink"), "purple"),
    **dict.fromkeys(("fuchsia", "mauve", "plum"), "purple"),
    **dict.fromkeys(("silver", "grey", "gray", "ivory", "pale", "cream", "snowy"), "white"),
    **dict.fromkeys(
        ("chequered", "checked", "checkerboard", "chequerboard", "chess", "chessboard", "tiled", "tile"),
        "checkered",
    ),
    **dict.fromkeys(("wood", "plank", "timber", "parquet", "oak"), "wooden"),
    **dict.fromkeys(("simple", "bare", "smooth", "empty", "concrete"), "plain"),
    **dict.fromkeys(("daytime", "daylight", "noon", "sunny", "midday", "morning", "afternoon"), "day"),
    **dict.fromkeys(("sunset", "sunrise", "sundown", "evening", "twilight", "dawn", "nightfall"), "dusk"),
    **dict.fromkeys(("nighttime", "midnight", "dark", "moonlit", "starry"), "night"),
    **dict.fromkeys(("beside", "near", "plus", "&", "next"), "and"),
    **dict.fromkeys(("before",), "front"),
}
# English words that only look like misspellings of known ones.
_OTHER_WORDS = frozenset(
    {
        "font",
        "greek",
        "read",
        "reed",
        "greet",
        "mourning",
        "pain",
        "paint",
        "plan",
        "plane",
        "plant",
        "starring",
        "timer",
    }
    | {"violent", "while", "wooded", "write"}
)


def sense_of(word: str) -> str | None:
    """Nearest known word: itself, its singular, a synonym, or a likely misspelling; None if there is none.

    Example:
        >>> sense_of("boxes"), sense_of("bluish"), sense_of("rde"), sense_of("turqoise"), sense_of("dragon")
        ('cube', 'blue', 'red', 'cyan', None)
    """
    if word in KNOWN:
        return word
    if word in OTHER_NAMES:
        return OTHER_NAMES[word]
    if word in SILENT:
        return None
    for form in _forms(word):
        if form in KNOWN:
            return form
        if form in _SYNONYMS:
            return _SYNONYMS[form]
    return None if word in _OTHER_WORDS else _spelt(word)


def is_plural(word: str) -> bool:
    """Whether a word is the plural of a shape.

    Example:
        >>> is_plural("boxes"), is_plural("dice")
        (True, False)
    """
    return word.endswith("s") and word not in _SYNONYMS and sense_of(word) in SHAPES


def _forms(word: str) -> Iterator[str]:
    """The word, its singular, and what "-ish" stands behind, as in "reddish", "bluish" and "greenish"."""
    yield word
    yield word.removesuffix("s")
    yield word.removesuffix("es")
    stem = word.removesuffix("ish")
    if stem != word:
        yield from (stem, stem + "e", stem[:-1])


def _spelt(word: str) -> str | None:
    """The known word that a misspelling stands for."""
    if len(word) < 3:
        return None
    # Few misspell the first letter: "light" is not "right".
    near = [known for known in sorted(KNOWN) if known[0] == word[0]]
    for known in near:
        if _exchanged(word, known) or (len(word) == 3 and len(known) == 4 and known.startswith(word)):
            return known
    if len(word) == 3:
        return None
    if found := difflib.get_close_matches(word, near, n=1, cutoff=0.8):
        return found[0]
    synonyms = [known for known in _SYNONYMS if known[0] == word[0] and len(known) > 4]
    found = difflib.get_close_matches(word, synonyms, n=1, cutoff=0.85)
    return _SYNONYMS[found[0]] if found else None


def _exchanged(word: str, known: str) -> bool:
    """Whether two neighbouring letters have changed places."""
    if len(word) != len(known):
        return False
    other = [place for place in range(len(word)) if word[place] != known[place]]
    return (
        len(other) == 2
        and other[1] == other[0] + 1
        and (word[other[0]], word[other[1]]) == (known[other[1]], known[other[0]])
    )

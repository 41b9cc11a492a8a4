"""Free prompts brought into the embedded model's language, with a remark on everything that was changed."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from latentcast.diffusion.scenes.arrangement import arrange, draw_object_count
from latentcast.diffusion.scenes.captions import FLOOR_PHRASES, SKY_PHRASES, full_caption, name_of
from latentcast.diffusion.scenes.scene import COLOURS, FLOORS, RELATIONS, SHAPES, SKIES
from latentcast.diffusion.scenes.senses import OTHER_NAMES, SILENT, is_plural, sense_of
from latentcast.errors import ParameterError

__all__ = ["Interpretation", "interpret"]

# Before a colour these name a shade of it, which the model does not have.
_SHADES = frozenset({"bright", "dark", "deep", "light", "pale"})
# What may stand behind "left of" or "behind" when the thing meant was named before.
_BACKWARD = frozenset({"", ",", "(", "and", "it", "its", "that", "them", "there", "this"})
# Between a thing and its colour, as in "a cube that is red" or "a cube (red)".
_LINKS_TO_COLOUR = frozenset({"(", "are", "colored", "coloured", "in", "is", "painted", "that", "which"})
# Relations that people ask for and the model does not have.
_OTHER_RELATIONS = frozenset(
    {"above", "atop", "below", "beneath", "between", "inside", "on", "over", "under", "underneath"}
)
_SKIPPED = frozenset({"a", "an", "of", "the", "top", "two", "three"})
_SURROUNDINGS = frozenset({"background", "carpet", "floor", "ground", "light", "sky", "wall", "walls"})
_EXAMPLES = {"left": "left of", "right": "right of", "front": "in front of", "behind": "behind"}
_COUNTS = {
    "both": 2,
    "couple": 2,
    "pair": 2,
    "few": 3,
    "several": 3,
    "many": 3,
    "dozen": 12,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    **{str(number): number for number in range(2, 101)},
}
_LIMIT = 3
# The streams 0 to 2 of a request's seed are taken; see `source.seed_stream`.
_CHOICE = 3
# Unknown words that a remark names.
_NAMED = 8
# Ways of writing that are put right before words are looked at.
_REWRITTEN = (
    (r"['’]s\b", ""),
    (r"\binfront\b", "in front"),
    (r"\b(left|right)(?:[ -]?hand)?(?: side)?[ -]?(?:of|from)\b", r"\1 of"),
)


@dataclass(frozen=True, kw_only=True)
class Interpretation:
    """How a prompt was understood.

    Args:
        caption: the sentence that is given to the model.
        notes: one sentence for every word that was replaced or left out.
    """

    caption: str
    notes: tuple[str, ...]


def interpret(prompt: str, seed: int = 0) -> Interpretation:
    """Bring a free prompt into the model's language.

    Args:
        prompt: what the user typed.
        seed: of the scene, or the thing, that is chosen where the prompt asks for none.

    Returns:
        The sentence for the model and what was changed.

    Raises:
        ParameterError: if nothing in the prompt is recognised; the message says what the model knows.

    Examples:
        >>> interpret("A crimson ball to the left of a blue cube at sunset!").caption
        'a red sphere to the left of a blue cube at dusk'
        >>> interpret("a red dragon")
        ... # doctest: +NORMALIZE_WHITESPACE
        Interpretation(caption='a red sphere', notes=("'dragon' is not known and was left out",
        'no shape was named: a sphere was chosen'))
        >>> interpret("").caption
        'a cyan sphere on a wooden floor under a day sky'
    """
    text = prompt.lower()
    for pattern, replacement in _REWRITTEN:
        text = re.sub(pattern, replacement, text)
    words = re.findall(r"[\w&]+|[,(]", text)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_CHOICE,)))
    if SILENT.issuperset(words):
        while (scene := arrange(rng, draw_object_count(rng))) is None:
            pass
        chosen = full_caption(scene, rng)
        return Interpretation(caption=chosen, notes=(f"nothing was asked for; the model's choice: {chosen}",))
    reader = _Reader(words)
    reader.read()
    if not reader.objects:
        if reader.floor is None and reader.sky is None:
            raise ParameterError(f"no known thing in the prompt {prompt[:60]!r}: {_known()}")
        thing = str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES))
        reader.objects.append(thing)
        reader.links.append("and")
        reader.notes.append(f"no thing was named: {name_of(*thing)} was chosen")
    return reader.compose()


def _known() -> str:
    return (
        f"the model knows {', '.join(SHAPES)}; {', '.join(COLOURS)}; {', '.join(RELATIONS)}; "
        f"{', '.join(FLOORS)} floor; {', '.join(SKIES)}"
    )


class _Reader:
    """Reads word by word and gathers what the scene holds."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.objects: list[tuple[str | None, str | None]] = []
        self.links: list[str] = []  # of each object to the one before it
        self.floor: str | None = None
        self.sky: str | None = None
        self.notes: list[str] = []
        self._unknown: list[str] = []
        self._colour: str | None = None  # that has no shape yet
        self._colour_place = -1
        self._pending = ""
        self._count: int | None = None
        self._group = 0  # objects that the last shape stands for

    def read(self) -> None:
        """Go through the prompt once."""
        for place, word in enumerate(self.words):
            self._count = _COUNTS.get(word, self._count)
            if self._meets_other_relation(place):
                self.notes.append(
                    f"'{word}' is understood as 'and': the relations known are {', '.join(RELATIONS)}"
                )
            sense = None if self._is_shade(place) else sense_of(word)
            if sense is None:
                if word not in SILENT and word not in _COUNTS and word not in _OTHER_RELATIONS:
                    self._unknown.append(word)
                continue
            if sense in COLOURS and self._is_of_surroundings(place):
                self.notes.append(f"'{word}' was left out: the model colours things, not what is around them")
                continue
            if sense in FLOORS and self._sense_at(place + 1) in {*SHAPES, *COLOURS}:
                self.notes.append(f"'{word}' was left out: the model knows it of floors only")
                continue
            if sense != word and word not in OTHER_NAMES:
                self.notes.append(f"'{word}' is understood as '{sense}'")
            if sense in COLOURS:
                self._meet_colour(sense, place)
            elif sense in SHAPES:
                self._meet_shape(sense, word)
            elif sense in FLOORS:
                self.floor = sense
            elif sense in SKIES:
                self.sky = sense
            elif relation := self._relation(sense, place):
                self._pending = relation
            elif sense in _EXAMPLES and place + 1 < len(self.words):
                example = f"{_EXAMPLES[sense]} a cube"
                self.notes.append(f"'{word}' was left out: what it relates to must follow, as in '{example}'")
        if self._unknown:
            self.notes.insert(0, _left_out(list(dict.fromkeys(self._unknown))))
        if self._colour is not None:
            for _ in range(self._count or 1):
                self._add(self._colour, None)

    def _word_at(self, place: int) -> str:
        return self.words[place] if 0 <= place < len(self.words) else ""

    def _sense_at(self, place: int) -> str | None:
        return sense_of(self._word_at(place)) if 0 <= place < len(self.words) else None

    def _is_shade(self, place: int) -> bool:
        after = self._sense_at(place + 1)
        return self.words[place] in _SHADES and (
            after in COLOURS or (after in SHAPES and self.words[place] != "pale")
        )

    def _is_of_surroundings(self, place: int) -> bool:
        """Whether a colour is that of a floor or a sky, as in "on a red floor" or "a purple night"."""
        after = place + 1
        # "A red wooden cube" is red all the same.
        while self._sense_at(after) in {*FLOORS, *SKIES}:
            after += 1
        if self._sense_at(after) in {*SHAPES, *COLOURS}:
            return False
        return after > place + 1 or self._word_at(after) in _SURROUNDINGS

    def _meets_other_relation(self, place: int) -> bool:
        """Whether the word relates two things in a way that the model does not know, as "on" a cube."""
        if self.words[place] not in _OTHER_RELATIONS:
            return False
        after = place + 1
        while self._word_at(after) in _SKIPPED:
            after += 1
        sense = self._sense_at(after)
        return sense in SHAPES or (sense in COLOURS and not self._is_of_surroundings(after))

    def _meet_colour(self, sense: str, place: int) -> None:
        after = self._sense_at(place + 1)
        uncoloured = self.objects[-self._group :] if self._group else []
        if (
            self._colour is None
            and uncoloured
            and all(colour is None for colour, _ in uncoloured)
            and self._word_at(place - 1) in _LINKS_TO_COLOUR
            and after not in {*SHAPES, *COLOURS}
        ):
            self.objects[-self._group :] = [(sense, shape) for _, shape in uncoloured]
            return
        if self._colour is not None and place == self._colour_place + 1:
            # A shade by two names, as in "blue-green": the last is the noun.
            both = f"{self.words[place - 1]} {self.words[place]}"
            self.notes.append(f"'{both}' is understood as '{sense}'")
        elif self._colour is not None:  # "red and blue cubes": the first colour had no shape of its own
            self._add(self._colour, None)
        self._colour, self._colour_place = sense, place

    def _meet_shape(self, sense: str, word: str) -> None:
        count = self._count
        if count is None:
            count = 1
            shared = bool(self.objects) and self.objects[-1][1] is None
            if is_plural(word) and not shared:
                count = 2
                self.notes.append(f"'{word}' came without a number: two were chosen")
        for _ in range(count):
            self._add(self._colour, sense)
        self._group = count
        self._colour, self._count = None, None

    def _add(self, colour: str | None, shape: str | None) -> None:
        self.objects.append((colour, shape))
        self.links.append(self._pending or "and")
        self._pending, self._group = "", 0

    def _relation(self, sense: str, place: int) -> str | None:
        """The relation to the thing named next; None if it is to something else: "on the left a cube"."""
        word, after = self.words[place], place + 1
        if sense != "behind" and word != "before":
            if self._word_at(after) != "of":
                return None
            after += 1
        if self._word_at(after) in _BACKWARD:
            return None
        if sense in ("left", "right"):
            return f"{'to the ' if self._word_at(place - 1) == 'the' else ''}{sense} of"
        return "in front of" if sense == "front" else sense

    def compose(self) -> Interpretation:
        """Write the sentence, filling in what was not said, as every training sentence says it."""
        notes = self.notes
        shapes = [shape for _, shape in self.objects if shape]
        complete: list[tuple[str, str]] = []
        for colour, shape in self.objects[:_LIMIT]:
            if shape is None:
                shape = shapes[0] if shapes else "sphere"
                if not shapes:
                    notes.append(f"no shape was named: a {shape} was chosen")
            if colour is None:
                taken = {c for c, _ in [*self.objects, *complete] if c}
                colour = next(c for c in COLOURS if c not in taken)
                notes.append(f"the {shape} had no colour: {colour} was chosen")
            complete.append((colour, shape))
        if len(self.objects) > _LIMIT:
            named = len(self.objects)
            notes.append(f"{named} things were named, the model draws at most {_LIMIT}: the first were kept")
        if alike := next((thing for thing in complete if complete.count(thing) > 1), None):
            notes.append(f"the model may miscount the {' '.join(alike)}s: it never saw two alike")
        text = name_of(*complete[0])
        for position in range(1, len(complete)):
            last = position == len(complete) - 1
            link = self.links[position]
            text += f" {',' if link == 'and' and not last else link} {name_of(*complete[position])}"
        if self.floor is not None:
            text += " " + FLOOR_PHRASES[self.floor][0]
        if self.sky is not None:
            text += " " + SKY_PHRASES[self.sky][0]
        return Interpretation(caption=text, notes=tuple(dict.fromkeys(notes)))


def _left_out(words: list[str]) -> str:
    """One sentence for all unknown words, however many there are."""
    if len(words) == 1:
        return f"'{words[0]}' is not known and was left out"
    shown, more = words[:_NAMED], len(words) - _NAMED
    named = ", ".join(f"'{word}'" for word in shown) + (f" and {more} other words" if more > 0 else "")
    return f"{named} are not known and were left out"

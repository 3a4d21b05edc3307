"""Sentences for the synthetic corpus: a small grammar with a wide vocabulary and a seeded generator.

Every sentence is a plain statement without its final mark, so that the style and not the words determines how it
is spoken. The words are chosen to cover all English sounds, including rare ones (measure, garage, voice, sure,
thread, this). There are far more than a million different sentences.
"""

from collections.abc import Sequence

import numpy as np


def _words(text: str) -> list[str]:
    """Words over several lines."""
    return text.split()


def _phrases(text: str) -> list[str]:
    """Comma-separated phrases over several lines."""
    return [" ".join(phrase.split()) for phrase in text.split(",")]


_NAMES = _words("""
    Alice Arthur Beatrice Boyd Cecil Charlotte Chloe Dorothy Duncan Edith Eugene Fiona Floyd George Hazel Hugh
    Ian Joyce Judith Keith Leah Louise Martha Matthew Naomi Noah Oscar Paula Quentin Roy Ruth Samuel Theo Ursula
    Victor Walter Yolanda Yusuf Zachary Zoe
""")

_PEOPLE = _words("""
    actor artist aunt author baker boy bishop captain child chef coach cook cousin dancer doctor driver editor
    engineer farmer father fisherman gardener girl guard guest guide hunter judge king lawyer librarian mayor
    mechanic merchant mother musician neighbour nurse painter pilot plumber poet porter professor pupil queen
    sailor scholar singer soldier student surgeon tailor teacher thief tourist tutor uncle usher visitor waiter
    watchman witch writer youth
""")

_THINGS = _words("""
    apple badge basket bell bicycle blanket boat book bottle bowl box bridge bucket button cabbage camera candle
    carpet chair chart cheese cherry clock cloth coin cushion desk diary dish door drum earring engine envelope
    feather fork fountain garage glove guitar hammer hat helmet jacket jewel jug kettle ladder lamp lantern
    leather lemon letter machine map measure medal mirror moth mushroom necklace needle onion orange oven oyster
    package paper parcel peach pencil piano picture pillow pitcher plough potato pudding purse puzzle quilt
    radio ring rope rug ruler saddle sandwich scarf shawl sheep ship shoe shovel sketch spoon stool suitcase
    sweater sword table tape teapot telescope thimble thread ticket tooth torch towel toy treasure trumpet
    umbrella vase vegetable violin voice wagon watch wheel whistle wire wreath yacht yoghurt zebra zither
""")

_PLACES = _words("""
    airport arch attic bakery balcony barn bathhouse bay beach bench canyon castle cathedral cave cellar chapel
    church cliff corner cottage courtyard creek dairy desert factory farmhouse ferry field forest fort garden
    gate glacier harbour hedge hill hotel island jail jungle kitchen lake laundry library lighthouse market
    meadow mill mine moor museum orchard palace park path pavement pier playground pond port quarry quay railway
    reef river road roof school shore shrine square stable stadium station street studio swamp temple theatre
    tower town tunnel valley village vineyard wall warehouse waterfall well wharf windmill workshop yard zoo
""")

_ADJECTIVES = _words("""
    ancient angry awkward beige big bitter bright broken brown busy calm careful cheap clever cloudy cold
    crowded curious damp dark deep dirty dusty early easy empty enormous faint famous fancy fierce foolish fresh
    friendly funny gentle giant golden grey handsome happy harsh heavy hollow honest huge humble hungry icy
    jolly joyful large lazy lonely loud loyal lucky mild modern moist muddy narrow noisy normal odd old pale
    patient peculiar plain poor pretty proud purple quick quiet rare rough round royal rusty sharp shiny short
    shy silver slow small smooth soft sour southern square steep strange sunny tall thick thin thirsty thorough
    tiny tired tough ugly unusual urban useful usual vague warm wealthy weird white wild wise worthy yellow
    young
""")

_VERBS = [
    phrase.split()
    for phrase in _phrases("""
    admire admired, borrow borrowed, bring brought, build built, buy bought, carry carried, catch caught, change
    changed, choose chose, clean cleaned, collect collected, count counted, cover covered, describe described,
    discover discovered, draw drew, drop dropped, enjoy enjoyed, examine examined, exchange exchanged, fetch
    fetched, find found, fix fixed, follow followed, forget forgot, guard guarded, hide hid, hold held, imagine
    imagined, inspect inspected, keep kept, lift lifted, lose lost, make made, measure measured, mend mended,
    move moved, need needed, notice noticed, offer offered, open opened, order ordered, paint painted, polish
    polished, pull pulled, push pushed, receive received, recognise recognised, remember remembered, repair
    repaired, replace replaced, save saved, see saw, sell sold, shake shook, show showed, smell smelled, steal
    stole, study studied, take took, touch touched, treasure treasured, understand understood, use used, visit
    visited, want wanted, wash washed, watch watched, weigh weighed, wrap wrapped
""")
]

_INTRANSITIVE = _words("""
    argued arrived breathed coughed danced dreamed fell fished froze giggled hesitated hurried jumped knelt
    laughed listened moved paused played prayed rested rowed sang shivered shouted skated slept slipped smiled
    sneezed spoke stayed stood stumbled swam thought vanished waited walked wandered whispered whistled worked
    yawned
""")

_PREPOSITIONS = _phrases("""
    above, across, against, along, around, at, behind, below, beneath, beside, beyond, by, inside, in front of, near,
    not far from, opposite, outside, over, past, through, towards, under, within sight of
""")

_TIMES = _phrases("""
    after lunch, all morning, at dawn, at midnight, before breakfast, before sunset, during the storm, early this year,
    every evening, every Thursday, for an hour, in August, in February, in the autumn, last night, last Wednesday,
    later that day, long ago, on Friday, on Tuesday, once a month, one winter morning, only yesterday, this afternoon,
    today, twice a week
""")

_ADVERBS = _words("""
    badly boldly bravely carefully cheerfully eagerly easily gladly gracefully happily heavily kindly lazily
    loudly neatly nervously politely proudly quickly quietly rarely roughly sadly secretly silently slowly
    smoothly suddenly thoughtfully together usually warmly wisely
""")

_NUMBERS = _words("two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen twenty")
_DETERMINERS = _words("the the the this that our their her his my your a every another")
_MODALS = ("will", "would", "could", "should", "might", "can", "must", "did not", "cannot", "used to")
_LINKS = ("while", "because", "before", "after", "although", "and then", "until", "but")
_SPEECH = ("said that", "thought that", "knew that", "hoped that", "heard that", "was sure that", "told us that")
_IRREGULAR = {"sheep": "sheep", "tooth": "teeth", "scarf": "scarves", "potato": "potatoes"}


def sentence(rng: np.random.Generator) -> str:
    """Draws one statement of about 5 to 20 words.

    Args:
        rng: the generator; the sentence is a pure function of its state.

    Returns:
        Words and commas, no final mark.

    >>> sentence(np.random.default_rng(5))
    'A plumber jumped but the cold aunt admired the stool'
    """
    kind = rng.choice(["plain", "plain", "place", "pair", "joined", "told", "modal"])
    match str(kind):
        case "plain":
            words = f"{_subject(rng)} {_past(rng)} {_object(rng)}"
        case "place":
            words = f"{_subject(rng)} {_pick(rng, _INTRANSITIVE)} {_place(rng)}"
        case "pair":
            words = f"{_pick(rng, _NAMES)} and {_pick(rng, _NAMES)} {_past(rng)} {_several(rng)}"
        case "joined":
            first = f"{_subject(rng)} {_pick(rng, _INTRANSITIVE)}"
            words = f"{first} {_pick(rng, _LINKS)} {_subject(rng)} {_past(rng)} {_object(rng)}"
        case "told":
            words = f"{_pick(rng, _NAMES)} {_pick(rng, _SPEECH)} {_subject(rng)} {_past(rng)} {_object(rng)}"
        case _:
            words = f"{_subject(rng)} {_pick(rng, _MODALS)} {rng.choice(_VERBS)[0]} {_object(rng)}"
    if kind != "place" and rng.random() < 0.4:
        words = f"{words} {_place(rng)}"
    if rng.random() < 0.3:
        words = f"{words} {_pick(rng, _ADVERBS)}"
    if rng.random() < 0.35:
        words = f"{_pick(rng, _TIMES)}, {words}"
    return words[0].upper() + words[1:]


def _pick(rng: np.random.Generator, words: Sequence[str]) -> str:
    return words[int(rng.integers(len(words)))]


def _subject(rng: np.random.Generator) -> str:
    return _pick(rng, _NAMES) if rng.random() < 0.3 else _noun_phrase(rng, _PEOPLE)


def _past(rng: np.random.Generator) -> str:
    return _VERBS[int(rng.integers(len(_VERBS)))][1]


def _object(rng: np.random.Generator) -> str:
    return _several(rng) if rng.random() < 0.25 else _noun_phrase(rng, _THINGS)


def _place(rng: np.random.Generator) -> str:
    return f"{_pick(rng, _PREPOSITIONS)} {_noun_phrase(rng, _PLACES)}"


def _several(rng: np.random.Generator) -> str:
    adjective = f"{_pick(rng, _ADJECTIVES)} " if rng.random() < 0.4 else ""
    return f"{_pick(rng, _NUMBERS)} {adjective}{_plural(_pick(rng, _THINGS))}"


def _noun_phrase(rng: np.random.Generator, nouns: Sequence[str]) -> str:
    determiner = _pick(rng, _DETERMINERS)
    adjective = f"{_pick(rng, _ADJECTIVES)} " if rng.random() < 0.45 else ""
    words = f"{adjective}{_pick(rng, nouns)}"
    if determiner == "a" and _starts_with_vowel_sound(words):
        determiner = "an"
    return f"{determiner} {words}"


def _starts_with_vowel_sound(words: str) -> bool:
    if words.startswith(("honest", "hour")):
        return True
    return words[0] in "aeiou" and not words.startswith(("use", "usual", "euro", "one"))


def _plural(noun: str) -> str:
    """The plural of a noun of the lists.

    >>> [_plural(noun) for noun in ("box", "cherry", "toy", "tooth", "bell")]
    ['boxes', 'cherries', 'toys', 'teeth', 'bells']
    """
    if noun in _IRREGULAR:
        return _IRREGULAR[noun]
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"

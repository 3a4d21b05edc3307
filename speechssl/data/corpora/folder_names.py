"""Labels and splits from the names of folders."""

from collections.abc import Collection, Mapping, Sequence

from speechssl.config import UserError
from speechssl.data.splits import split_kind
from speechssl.data.values import composed, name_of

_SHOWN = 8  # names in a note


def is_split(name: str) -> bool:
    """Whether a folder of this name is a split, such as `train`, `dev`, `validation` or `test_set`."""
    return split_kind(name) is not None


def split_of_folders(parts: Sequence[str]) -> str | None:
    """The split that the folders of a path name: the first folder, or else the only one with the name of a split.

    >>> split_of_folders(("train", "test")), split_of_folders(("audio", "train", "en"))
    ('train', 'train')
    >>> split_of_folders(("audio", "train", "test")), split_of_folders(("audio", "en"))
    (None, None)
    """
    found = [name for name in parts if is_split(name)]
    return composed(found[0]) if found and (len(found) == 1 or found[0] == parts[0]) else None


def labels_of_folders(folders: Collection[tuple[str, ...]]) -> dict[tuple[str, ...], dict[str, str]]:
    """Fields from the names of the folders with audio: `label`, `split`, both or nothing.

    Splits are folders called train, test and so on, at any depth, where every folder with audio is or is in one. Labels
    are the names of two or more folders that are one level down, at the root or beside the split; a clip beside these
    folders has none.

    Args:
        folders: the parts of each below the root.

    Raises:
        UserError: an invalid label, such as one with a control character.

    >>> labels_of_folders({("train", "sad"), ("train", "glad")})[("train", "sad")]
    {'label': 'sad', 'split': 'train'}
    >>> labels_of_folders({("sad", "train"), ("glad", "test")})[("sad", "train")]
    {'label': 'sad', 'split': 'train'}
    >>> labels_of_folders({("sad",), ("glad",), ()})
    {...('sad',): {'label': 'sad'}...}
    >>> labels_of_folders({("sad",), ("glad", "loud")})[("sad",)]
    {}
    """
    in_splits, below = _below_splits(folders)
    classes = {composed(rest[0]) for rest in below.values() if rest}
    labelled = all(len(rest) <= 1 for rest in below.values()) and len(classes) > 1
    return {
        part: ({"label": label} if labelled and rest and (label := _name(rest[0])) else {})
        | ({"split": split} if in_splits and (split := split_of_folders(part)) else {})
        for part, rest in sorted(below.items())
    }


def _name(folder: str) -> str | None:
    """The name of a folder in the form of a name in a table."""
    try:
        return name_of(folder)
    except ValueError as error:
        raise UserError(f"the label of a folder: {error}") from None


def _below_splits(folders: Collection[tuple[str, ...]]) -> tuple[bool, dict[tuple[str, ...], tuple[str, ...]]]:
    """Whether all folders are splits or in one, and the rest of each path."""
    deep = [part for part in folders if part]
    in_splits = bool(deep) and all(split_of_folders(part) for part in deep)
    return in_splits, {part: _without_split(part) if in_splits else part for part in folders}


def _without_split(part: tuple[str, ...]) -> tuple[str, ...]:
    place = next((place for place, name in enumerate(part) if is_split(name)), len(part))
    return part[:place] + part[place + 1 :]


def note_on_splits(counts: Mapping[tuple[str, ...], int], first: Mapping[tuple[str, ...], str]) -> str | None:
    """Message about folders with names of splits that are none, as other recordings are in no split.

    Args:
        counts: clips directly in each folder.
        first: the name of one clip of each folder.

    >>> note_on_splits({("train",): 3, ("noise",): 2}, {("train",): "a.wav", ("noise",): "b.wav"})
    'no split: 3 clips are in folders called like one (train), but 2 in none or several (noise/b.wav)'
    """
    inside = [part for part in counts if any(map(is_split, part))]
    if not inside or _below_splits(counts)[0]:
        return None
    names = ", ".join(sorted({name for part in inside for name in part if is_split(name)}))
    outside = sorted(part for part in counts if part and split_of_folders(part) is None)
    clips, others = (sum(counts[part] for part in parts) for parts in (inside, outside))
    example = "/".join((*outside[0], first[outside[0]]))
    return (
        f"no split: {clips} clips are in folders called like one ({names}), but {others} in none or several ({example})"
    )


def note_on_labels(counts: Mapping[tuple[str, ...], int], first: Mapping[tuple[str, ...], str]) -> str:
    """Message with the source of the labels, or the reason why there are none.

    Args:
        counts: clips directly in each folder.
        first: the name of one clip of each folder.

    >>> note_on_labels({("joy",): 3, ("anger",): 2, (): 1}, {("joy",): "a.wav", ("anger",): "a.wav", (): "x.wav"})
    'labels are the names of 2 folders (anger, joy); 1 clip beside these has none (x.wav)'
    """
    meanings = labels_of_folders(counts)
    _, below = _below_splits(counts)
    names = sorted({meaning["label"] for meaning in meanings.values() if "label" in meaning})
    if names:
        shown = ", ".join(names[:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
        bare = [part for part, meaning in meanings.items() if "label" not in meaning]
        clips = sum(counts[part] for part in bare)
        words = f"{clips} clips beside these have none" if clips > 1 else "1 clip beside these has none"
        rest = f"; {words} ({'/'.join((*bare[0], first[bare[0]]))})" if bare else ""
        return f"labels are the names of {len(names)} folders ({shown}){rest}"
    way = "; name them in a metadata.csv, or put each class into a folder of its own"
    depths = sorted({len(rest) for rest in below.values()})
    if depths == [0]:
        return f"no label: there are no folders of classes{way}"
    deepest = max(below, key=lambda part: len(below[part]))
    if depths[-1] == 1:
        return f"no label: the recordings are in one folder ({'/'.join(deepest)}), and classes are two or more{way}"
    example = "/".join((*deepest, first[deepest]))
    return f"no label: folders are classes where recordings are one level down, and {example} is deeper{way}"

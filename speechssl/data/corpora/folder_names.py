"""What the names of folders say of the clips in them: a label, a split."""

from collections.abc import Collection, Mapping

from speechssl.data.values import composed

SPLIT_NAMES = frozenset("train training dev devel development valid validation val eval test testing".split())  # noqa: SIM905
_SHOWN = 8  # names in a note


def labels_of_folders(folders: Collection[tuple[str, ...]]) -> dict[tuple[str, ...], dict[str, str]]:
    """What the names of the folders with audio say of the clips in them: `label`, `split`, both or nothing.

    Labels are the names of two or more folders that are one level down, at the root or below split folders; a clip
    beside these folders has none.

    Args:
        folders: each as its parts below the root.

    >>> labels_of_folders({("train", "sad"), ("train", "glad")})[("train", "sad")]
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
        part: ({"label": composed(rest[0])} if labelled and rest else {})
        | ({"split": composed(part[0])} if in_splits and part else {})
        for part, rest in sorted(below.items())
    }


def _below_splits(folders: Collection[tuple[str, ...]]) -> tuple[bool, dict[tuple[str, ...], tuple[str, ...]]]:
    """Whether all folders are splits or in one, and what each is below that."""
    deep = [part for part in folders if part]
    in_splits = bool(deep) and all(part[0].lower() in SPLIT_NAMES for part in deep)
    return in_splits, {part: part[1:] if in_splits and part else part for part in folders}


def note_on_labels(counts: Mapping[tuple[str, ...], int], first: Mapping[tuple[str, ...], str]) -> str:
    """A sentence that says where labels come from, or why there are none.

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

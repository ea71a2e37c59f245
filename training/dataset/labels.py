"""The labels of the images of a folder or zip: from dataset.json, or else from class folders; and what is not used."""

import json
import posixpath
import re
import reprlib
import zipfile
import zlib
from typing import Any, NamedTuple

import numpy as np

from dnnlib.text import some

from .files import ImageFiles
from .names import LABELS_FILE, DatasetError, normal_name

OWN_LAYOUT = re.compile(r'\d{5}/img\d{8}\.png')
LABEL_BYTES = 4096                  # of dataset.json per image
MAX_LABEL_DIM = 1 << 14             # classes, or numbers of a vector: what networks take
FLOAT32_MAX = 3.4028234e38
UNREADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, EOFError, zlib.error,
              zipfile.BadZipFile)
# ways in which names of the same picture may differ
NEARLY = {'upper and lower case': str.casefold, 'the ending': lambda name: posixpath.splitext(name)[0]}


class Labels(NamedTuple):
    """The labels of images; a label is an integer or a list of numbers."""
    file: str | None                                # the dataset.json that was read; None = there is none
    by_name: dict[str, Any]                         # images without a label are missing; empty where the file says null
    class_names: list[str] | None                   # by label; None = not known
    strays: str | None                              # which names of the file are no images, in a sentence
    notes: list[str]                                # what is not used or may surprise; `strays` is among them


def read_labels(files: ImageFiles, names: list[str]) -> Labels:
    """The labels of those images `names` of `files`.

    The names in a dataset.json count from the folder that it lies in, so that a data set may be packed with its folder.
    Raises: DatasetError if the dataset.json does not have the form of this format or contradicts itself.
    """
    file, notes = _labels_file(files, names)
    if file is None:
        by_name, class_names, more = folder_labels(names)
        return Labels(None, by_name, class_names, None, notes + more)
    listed, class_names = _read(files, file)
    root = file.removesuffix(LABELS_FILE)
    by_name = {name: listed[name.removeprefix(root)] for name in names if name.removeprefix(root) in listed}
    strays = _strays(listed, root, files.names, file)
    return Labels(file, by_name, class_names, strays, notes + ([strays] if strays else []))


def _labels_file(files: ImageFiles, names: list[str]) -> tuple[str | None, list[str]]:
    """(the uppermost dataset.json that lies above all of the images `names`, notes on others)."""
    common = posixpath.commonpath([posixpath.dirname(name) or '.' for name in names])
    above = [file for file in files.labels_files if f'{common}/'.startswith(file.removesuffix(LABELS_FILE))]
    used = min(above, key=len, default=None)
    unused = [file for file in files.labels_files if file != used]
    if not unused:
        return used, []
    instead = used if used else f'one {LABELS_FILE} in a folder above all images'
    return used, [f'{some(unused, 3)}: not used; labels come from {instead}']


def _read(files: ImageFiles, file: str) -> tuple[dict[str, Any], list[str] | None]:
    """({normal name: label}, class names) as the file has them."""
    try:
        content = json.loads(files.read(file, limit=LABEL_BYTES * (len(files.names) + 256)))
        listed, class_names = _listed(content['labels'] or []), content.get('class_names')
        _check_class_names(class_names)
        listed, class_names = _numbered(listed, class_names)
        _check_labels(listed)
    except UNREADABLE as err:
        raise DatasetError(files.path, f'{file} is not of the form {{"labels": [["name.png", 0], ...]}} or '
                           f'{{"labels": null}} ({type(err).__name__}: {err})', 'correct it or remove it') from err
    most = max((label for label in listed.values() if isinstance(label, int)), default=-1)
    if class_names is not None and most >= len(class_names):
        raise DatasetError(files.path, f'{file} has labels up to {most}, which are {most + 1} classes, and '
                           f'{len(class_names)} class_names ({some(class_names, 3)})',
                           'name all classes, in the order of their labels, or remove class_names')
    return listed, class_names


def _listed(labels) -> dict[str, Any]:
    by_name: dict[str, Any] = {}
    for name, label in labels.items() if isinstance(labels, dict) else labels:
        other = by_name.setdefault(normal_name(name), label)
        if other != label:
            raise ValueError(f'{name} has two labels, {reprlib.repr(other)} and {reprlib.repr(label)}')
    return by_name


def _numbered(listed: dict[str, Any], class_names: list[str] | None) -> tuple[dict[str, Any], list[str] | None]:
    """Class names given as labels become numbers: their place in class_names or else in alphabetical order."""
    words = {label for label in listed.values() if isinstance(label, str)}
    if not words or any(not isinstance(label, str) for label in listed.values()):
        return listed, class_names                          # numbers, or a mixture that is refused later
    numerals = [word for word in sorted(words) if word.strip().isdecimal()]
    if class_names is None and numerals:
        raise TypeError(f'the label "{numerals[0]}" is a number in quotation marks; write it without them')
    class_names = sorted(words) if class_names is None else class_names
    if twice := [word for word in sorted(words) if class_names.count(word) > 1]:
        raise ValueError(f'the label "{twice[0]}" stands twice in class_names; give each class a name of its own')
    unknown = sorted(words - set(class_names))
    if unknown:
        raise ValueError(f'the label "{unknown[0]}" is not among the class_names ({some(class_names, 3)})')
    number = {word: i for i, word in enumerate(class_names)}
    return {name: number[word] for name, word in listed.items()}, class_names


def _check_class_names(class_names) -> None:
    if class_names is None:
        return
    if not isinstance(class_names, list) or not all(isinstance(name, str) for name in class_names):
        raise TypeError('class_names is not a list of names')
    if len(class_names) > MAX_LABEL_DIM:
        raise TypeError(f'class_names has {len(class_names)} names, {MAX_LABEL_DIM} are the limit')


def _check_labels(by_name: dict[str, Any]) -> None:
    kinds = set()
    for name, label in by_name.items():
        if type(label) is int and 0 <= label < MAX_LABEL_DIM:
            kinds.add('a class number')
        elif isinstance(label, list) and len(label) <= MAX_LABEL_DIM and all(_is_float32(value) for value in label):
            kinds.add(f'a list of {len(label)}')
        else:
            raise TypeError(f'the label of {name} is {reprlib.repr(label)}, neither a class number below '
                            f'{MAX_LABEL_DIM}, nor a class name, nor a list of at most so many finite numbers')
        if len(kinds) > 1:
            raise TypeError(f'the label of {name} is {reprlib.repr(label)}, others are of another kind: '
                            + ' and '.join(sorted(kinds)))


def _is_float32(value) -> bool:
    """Whether float32 can hold it as a number; JSON as Python reads it has NaN, Infinity, integers of any length."""
    return type(value) in (int, float) and abs(value) <= FLOAT32_MAX


def _strays(listed: dict[str, Any], root: str, images: list[str], file: str) -> str | None:
    """Which names of a dataset.json are no images of its folder, and how they differ from images without a label."""
    here = {name.removeprefix(root) for name in images if name.startswith(root)}
    strays = [name for name in listed if name not in here]
    if not strays:
        return None
    said = f'{len(strays)} of {len(listed)} names in {file} are no images here and not used: {some(strays, 3)}'
    unlabelled = sorted(name for name in here if name not in listed)
    for difference, key in NEARLY.items():
        alike = {key(name): name for name in unlabelled}
        for name in strays:
            if key(name) in alike:
                return f'{said}; {name} there is {alike[key(name)]} here: they differ in {difference}'
    inner = {name[name.index('/') + 1:]: name for name in unlabelled if '/' in name}
    for name in strays:
        here = inner.get(name) or next((other for other in unlabelled if name.endswith(f'/{other}')), None)
        if here:
            return f'{said}; {name} there is {here} here: they differ in the folder'
    return f'{said}; images without a label: {some(unlabelled, 3)}' if unlabelled else said


def folder_labels(names: list[str]) -> tuple[dict[str, int], list[str] | None, list[str]]:
    """Labels from folder names: ({name: label}, class names, notes), or ({}, None, notes) without two class folders.

    The class of an image is the last folder of its path (`train/airplane/1.jpg` -> airplane); labels follow the sorted
    class names. Folders that hold images by their number (`00003/img00003141.png`, `03000/03141.png`) are no classes.
    """
    folders = {name: name.split('/')[-2] for name in names if '/' in name}
    class_names = sorted(set(folders.values()))
    if len(class_names) < 2:
        return {}, None, []
    if all(_is_stored_by_number(name) for name in folders):
        return {}, None, [f'folders that hold images by their number are no classes ({some(class_names, 3)}); '
                          'give them other names if they are']
    if outside := [name for name in names if name not in folders]:
        return {}, None, [f'{len(outside)} of {len(names)} images lie beside the folders ({some(outside, 3)}), so that '
                          f'{some(class_names, 3)} are not taken for classes; for labels, move them into a folder']
    number = {class_name: i for i, class_name in enumerate(class_names)}
    notes = []
    if all(class_name.isdecimal() for class_name in class_names):
        notes.append(f'the classes are called {some(class_names, 3)}, which tells a teacher nothing: for distillation '
                     'by texts, name the folders by what they show, or use --kd-texts=FILE')
    return {name: number[folder] for name, folder in folders.items()}, class_names, notes


def _is_stored_by_number(name: str) -> bool:
    """Whether the folder of a file follows from its number: image 3141 lies in 00003 (StyleGAN) or in 03000 (FFHQ)."""
    folder, file = name.split('/')[-2:]
    if OWN_LAYOUT.fullmatch(f'{folder}/{file}'):
        return True
    digits = re.search(r'(\d{1,20})\.\w+$', file)
    if digits is None or re.fullmatch(r'\d{3,20}', folder) is None:
        return False
    thousands = int(digits[1]) // 1000
    return int(folder) in (thousands, thousands * 1000)


def empty_classes(labels: np.ndarray, class_names: list[str] | None) -> list[str]:
    """A note, if there are classes without an image. labels: int [N]."""
    present = set(np.unique(labels).tolist())
    num_classes = max(max(present) + 1, len(class_names or []))
    empty = [k for k in range(num_classes) if k not in present]
    if not empty:
        return []
    names = [class_names[k] if class_names else str(k) for k in empty]
    remedy = '' if class_names else '; labels count from 0' if empty == [0] else '; number the labels without gaps'
    return [f'{len(empty)} of {num_classes} classes have no image: {some(names)}{remedy}']

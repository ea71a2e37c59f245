"""Samples of a part of the study side by side: a row for each arm, a column for each seed."""

import os

import PIL.Image

from dnnlib import files

COLUMNS, ROWS, SEEDS = 6, 3, 3          # images of a run, and runs of an arm
SIDE, GAP = 64, 12                      # pixels


def latest_grid(run_dir, kimg):
    """The grid of a run's fakes at `kimg`; None if there is none."""
    path = os.path.join(run_dir, f'fakes{int(kimg):06d}.png')
    return path if os.path.isfile(path) else None


def crop(path, side):
    """The first images of a grid whose images have `side` pixels."""
    with PIL.Image.open(path) as grid:
        part = grid.convert('RGB').crop((0, 0, COLUMNS * side, ROWS * side))
    return part.resize((COLUMNS * SIDE, ROWS * SIDE), PIL.Image.NEAREST)


def write(grids, side, path):
    """grids: {arm: [grids of its seeds]}. -> whether there was something to write."""
    grids = {arm: found[:SEEDS] for arm, found in grids.items() if found}
    if len(grids) < 2:
        return False
    width, height = COLUMNS * SIDE + GAP, ROWS * SIDE + GAP
    sheet = PIL.Image.new('RGB', (width * max(map(len, grids.values())) - GAP, height * len(grids) - GAP), 'white')
    for row, found in enumerate(grids.values()):
        for column, grid in enumerate(found):
            sheet.paste(crop(grid, side), (column * width, row * height))
    with files.atomic_path(path) as temp:
        sheet.save(temp, format='png', optimize=True)
    return True

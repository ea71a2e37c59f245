"""The page of one run: report.html in its folder."""

import glob
import json
import os

import PIL.Image

from dnnlib import files

from . import advice, curves, events, facts, measured, page, pictures, run_folder
from .run_folder import PAGE_FILE

SHEETS = {          # of generate.py, and of the memorization metrics
    'neighbors.png': 'Generated images, each with the training images nearest to it.',
    'pairs-*.png': 'The generated images that are nearest to a training image, above it.'}
MOST_SHEETS = 4                 # sheets that are shown


def write(run_dir: str, out: str | None = None, assets: str | None = None) -> str:
    """Writes the page of a run. -> its path.

    Args:
        out:    file; None = report.html in the folder of the run.
        assets: folder for style, script and pictures as files; None = all in the page.
    Raises: UserError if the folder is not that of a run, or something cannot be written.
    """
    run = run_folder.read(run_dir)
    path = out or os.path.join(run.folder, PAGE_FILE)
    files.write_text(path, make(run, page.Inline() if assets is None else page.Linked(assets, path)))
    return path


def write_beside_training(run_dir: str) -> None:
    """As `write`. An error is printed and does not end the training."""
    try:
        write(run_dir)
    except Exception as err:            # no error of the page may end the training
        print(f'Warning: {PAGE_FILE} was not written ({type(err).__name__}: {err}). The training goes on; '
              f'python report.py {run_dir} writes it later.', flush=True)


def make(run: run_folder.Run, how, live: str | None = None) -> str:
    """The page as HTML.

    Args:
        how:  where pictures, style and script come from, as of `page.render`.
        live: address that tells whether the run has got further; None = the page stays as it is.
    """
    head = facts.progress(run)
    groups = measured.by_protocol(run.metrics)
    metric_panels = [measured.panel(group) for group in groups.values()]
    panels, ticks_per_point = curves.panels(run)
    happened = events.collect(run)
    frames = [dict(kimg=nimg / 1000, label=pictures.label(nimg, name), of=pictures.identity(run, name),
                   src=how.picture(name.replace('.png', '.jpg'), jpeg)) for nimg, name, jpeg in pictures.frames(run)]
    untold = [dict(frame, src=None) for frame in frames[-1:]]               # this one is in the page already
    data = dict(kind='run', live=live, panels=[*metric_panels, *panels], events=happened,
                sets=[dict(frames=[*frames[:-1], *untold])])
    return page.render(
        'run.html', how, data, live=live, name=run.name, head=head, advice=advice.give(run, head['finished']),
        frames=len(frames), last=frames[-1] if frames else None, left_out=len(run.frames) - len(frames),
        reals=_picture(how, 'reals.jpg', pictures.reals(run)), neighbors=_neighbors(run, how),
        metrics=[measured.row(group) for group in groups.values()], kept=run.snapshots, metric_panels=metric_panels,
        panels=panels, ticks_per_point=ticks_per_point, latest=_latest(panels), events=happened,
        tables=[('Options other than their defaults', facts.given(run)), ('Data', facts.data(run)),
                ('Training', facts.training(run)), ('Teacher', facts.teacher(run)), ('Machine', facts.machine(run))],
        config=json.dumps(run.config, indent=2))


def _picture(how, name, jpeg):
    return None if jpeg is None else how.picture(name, jpeg)


def _latest(panels):
    """[(name, last value)] for readers without a script."""
    return [(entry['label'], next((value for value in reversed(entry['y']) if value is not None), None))
            for panel in panels for entry in panel['series']]


def _neighbors(run, how):
    """[(address, what it shows)] of the sheets of nearest training images in the folder of the run and those in it."""
    folder = glob.escape(run.folder)
    places = [(path, text) for name, text in SHEETS.items() for part in ([name], ['*', name])
              for path in sorted(glob.glob(os.path.join(folder, *part)))]
    found = [(_sheet(path), text) for path, text in places[:MOST_SHEETS]]
    return [(how.picture(f'nearest{number}.jpg', jpeg), text) for number, (jpeg, text) in enumerate(found)
            if jpeg is not None]


def _sheet(path):
    try:
        with PIL.Image.open(path) as image:
            if image.width * image.height > pictures.MOST_PIXELS:
                return None
            small = image.convert('RGB')
            small.thumbnail((1200, 2400))
            return pictures.as_jpeg(small)
    except pictures.DAMAGED:
        return None

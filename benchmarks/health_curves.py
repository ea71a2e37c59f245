"""The curves of docs/health.md as a picture: python benchmarks/health_curves.py --run=RUN --dest=health.png"""

import os
import sys

import click
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from dnnlib import UserError, metric_records  # noqa: E402
from dnnlib.util import user_errors  # noqa: E402
from torch_utils.image_grid import save_image  # noqa: E402
from training.run import files as run_files  # noqa: E402

COLOURS = '#1f77b4', '#d62728', '#2ca02c', '#9467bd'
PANELS = {          # title -> {what the legend says: statistic}; curves that the run has not are left out
    "D's mean logit": {'training': 'Health/scores/training', 'held out': 'Health/scores/validation',
                       'fake': 'Health/scores/fake'},
    'overfitting': {'r_t': 'Loss/signs/real', 'r_v': 'Health/overfitting', 'ADA p': 'Progress/augment'},
    'cosine of D and teacher': {'real': 'KD/agreement_real', 'fake': 'KD/agreement_fake'},
    'share of fakes': {'copies': 'Health/copies', 'repeats': 'Health/repeats'},
}
WIDTH, HEIGHT, LEFT, TOP = 440, 260, 44, 28         # pixels, of a panel and of the space for its numbers and its title


def read_curves(run_dir):
    """-> {title: {legend: [(kimg, value), ...]}}. Raises UserError if there are none."""
    records = metric_records.read_lines(os.path.join(run_dir, run_files.STATS_FILE))
    curve = lambda name: [(record['Progress/kimg']['mean'], record[name]['mean']) for record in records
                          if name in record]
    panels = {title: {legend: points for legend, name in names.items() if (points := curve(name))}
              for title, names in PANELS.items()}
    panels = {title: curves for title, curves in panels.items() if curves}
    if not panels:
        raise UserError(f'--run={run_dir}: no statistics in {run_files.STATS_FILE}; name the directory of a run')
    return panels


def draw_panel(title, curves):
    """One set of axes with its curves."""
    panel = PIL.Image.new('RGB', (WIDTH, HEIGHT), 'white')
    draw, font = PIL.ImageDraw.Draw(panel), PIL.ImageFont.load_default(size=12)
    last = max(kimg for points in curves.values() for kimg, _ in points)
    values = [value for points in curves.values() for _, value in points]
    low, high = min(0, *values), max(1, *values) if title != "D's mean logit" else max(values)
    place = lambda kimg, value: (LEFT + kimg / last * (WIDTH - LEFT - 12),
                                 HEIGHT - 24 - (value - low) / (high - low or 1) * (HEIGHT - TOP - 30))
    for value in (low, high, 0):
        draw.line([place(0, value), place(last, value)], fill='#dddddd')
        if value in (low, high) or abs(place(0, value)[1] - place(0, low)[1]) > 14:
            draw.text((4, place(0, value)[1] - 7), f'{value:.2g}', fill='black', font=font)
    draw.text((LEFT, HEIGHT - 18), '0', fill='black', font=font)
    draw.text((WIDTH - 62, HEIGHT - 18), f'{last:g} kimg', fill='black', font=font)
    draw.text((LEFT, 6), title, fill='black', font=font)
    x = WIDTH - 210
    for colour, (legend, points) in zip(COLOURS, curves.items(), strict=False):
        draw.line([place(*point) for point in points], fill=colour, width=2, joint='curve')
        draw.text((x, 6), legend, fill=colour, font=font)
        x += 12 + draw.textlength(legend, font=font)
    return panel


@click.command()
@click.option('--run', 'run_dir', help='Directory of a run', required=True, metavar='DIR')
@click.option('--dest', help='Where to write the picture', required=True, metavar='PNG')
def main(run_dir, dest):
    """Draws what stats.jsonl says of the health of a run; TensorBoard shows the same."""
    with user_errors():
        panels = [draw_panel(title, curves) for title, curves in read_curves(run_dir).items()]
        sheet = PIL.Image.new('RGB', (WIDTH * min(len(panels), 2), HEIGHT * -(-len(panels) // 2)), 'white')
        for i, panel in enumerate(panels):
            sheet.paste(panel, (i % 2 * WIDTH, i // 2 * HEIGHT))
        save_image(sheet, dest)


if __name__ == '__main__':
    main()

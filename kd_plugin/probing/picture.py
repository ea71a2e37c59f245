"""The correlations of images and texts as a picture."""

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch

CELL, MARGIN = 32, 8                                    # pixels
LOW, HIGH = np.array([255, 255, 255]), np.array([8, 64, 129])


def draw_correlations(images, corr, texts):
    """A row per image, a column per text, from white (the smallest value in the picture) to blue (the largest).

    Args:
        images: uint8 [R, C, H, W].
        corr:   [R, K].
        texts:  list of K str.
    Returns:    PIL image.
    """
    font = PIL.ImageFont.load_default(size=13)
    top = max(int(font.getlength(text)) for text in texts) + 2 * MARGIN
    left, below = MARGIN + CELL + MARGIN, 20 + MARGIN
    width = max(left + CELL * len(texts) + MARGIN, 330)
    sheet = PIL.Image.new('RGB', (width, top + CELL * len(images) + below), 'white')
    for column, text in enumerate(texts):
        label = PIL.Image.new('RGB', (top - MARGIN, CELL), 'white')
        PIL.ImageDraw.Draw(label).text((0, CELL // 2), text, fill='black', font=font, anchor='lm')
        sheet.paste(label.rotate(90, expand=True), (left + CELL * column, MARGIN // 2))
    for row, img in enumerate(images):
        sheet.paste(_thumbnail(img), (MARGIN, top + CELL * row))
    sheet.paste(_cells(corr), (left, top))
    legend = f'white {corr.min():.3f}    blue {corr.max():.3f}'
    PIL.ImageDraw.Draw(sheet).text((left, top + CELL * len(images) + MARGIN), legend, fill='black', font=font)
    return sheet


def _thumbnail(img):
    pixels = img.expand(3, -1, -1).permute(1, 2, 0).numpy()
    return PIL.Image.fromarray(pixels).resize((CELL, CELL), PIL.Image.Resampling.BICUBIC)


def _cells(corr):
    span = torch.clamp(corr.max() - corr.min(), min=1e-12)
    share = ((corr - corr.min()) / span).numpy()[:, :, None]
    colours = (LOW + share * (HIGH - LOW)).round().astype(np.uint8)
    return PIL.Image.fromarray(colours.repeat(CELL, 0).repeat(CELL, 1))

"""Drawn pictures of things that are classes of ImageNet, for networks that know those."""

import math

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import torch

SIZE, CENTRE = 224, 112


def clock():
    picture = PIL.Image.new('RGB', (SIZE, SIZE), (190, 170, 140))
    draw, font = PIL.ImageDraw.Draw(picture), PIL.ImageFont.load_default(16)
    draw.ellipse([15, 15, SIZE - 15, SIZE - 15], fill=(60, 40, 30))
    draw.ellipse([28, 28, SIZE - 28, SIZE - 28], fill='white')

    def hand(degrees, start, end, width):
        turn = math.radians(degrees)
        line = [(CENTRE + r * math.sin(turn), CENTRE - r * math.cos(turn)) for r in (start, end)]
        draw.line(line, fill='black', width=width)
        return line[1]
    for minute in range(60):
        hand(6 * minute, *((76, 82, 3) if minute % 5 == 0 else (79, 82, 1)))
    for hour in range(1, 13):
        draw.text(hand(30 * hour, 63, 63, 0), str(hour), fill='black', anchor='mm', font=font)
    hand(305, 0, 40, 6)
    hand(60, 0, 58, 4)
    return picture


def crossword():
    picture, random = PIL.Image.new('RGB', (SIZE, SIZE), 'white'), np.random.RandomState(0)
    draw = PIL.ImageDraw.Draw(picture)
    for y in range(2, 222, 20):
        for x in range(2, 222, 20):
            draw.rectangle([x, y, x + 20, y + 20], fill='black' if random.rand() < 0.22 else 'white', outline='black')
    return picture


def traffic_light():
    picture = PIL.Image.new('RGB', (SIZE, SIZE), (130, 180, 230))
    draw = PIL.ImageDraw.Draw(picture)
    draw.rectangle([106, 190, 118, 224], fill=(40, 40, 40))
    draw.rounded_rectangle([76, 20, 148, 196], 12, fill=(30, 30, 30))
    for y, colour in ((30, (230, 30, 30)), (86, (90, 80, 20)), (142, (20, 70, 30))):
        draw.ellipse([88, y, 136, y + 48], fill=colour)
    return picture


def maze():
    picture, random = PIL.Image.new('RGB', (SIZE, SIZE), (40, 110, 40)), np.random.RandomState(1)
    draw = PIL.ImageDraw.Draw(picture)
    for r in range(10, 112, 14):
        start, length = random.randint(360), random.randint(360) + 300
        draw.arc([CENTRE - r, CENTRE - r, CENTRE + r, CENTRE + r], start, length, fill=(230, 220, 180), width=6)
    return picture


NUMBERS = {409: clock, 918: crossword, 920: traffic_light, 646: maze}           # class of ImageNet -> what draws it


def drawn():
    """-> (images [4, 3, 224, 224] in [-1, 1], their classes)."""
    pictures = [torch.from_numpy(np.asarray(draw()).copy()).permute(2, 0, 1) for draw in NUMBERS.values()]
    return torch.stack(pictures).to(torch.float32) / 127.5 - 1, list(NUMBERS)

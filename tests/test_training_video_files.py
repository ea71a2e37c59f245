import sys

import numpy as np
import PIL.Image
import pytest
from small_generators import read_video

from dnnlib import UserError
from inference import video_files

COLOURS = [(250, 10, 10), (10, 250, 10), (10, 10, 250), (200, 200, 200), (30, 30, 30)]


def pictures(size, mode='RGB'):
    for colour in COLOURS:
        yield PIL.Image.new(mode, size, colour if mode == 'RGB' else colour[0])


@pytest.mark.parametrize('size, want', [((32, 48), (32, 48)), ((33, 17), (34, 18))])
def test_an_mp4_holds_the_pictures(size, want, tmp_path):
    path = tmp_path / 'a.mp4'
    assert video_files.write_mp4(pictures(size), str(path), fps=5) == 5
    frames, fps = read_video(path)
    assert frames.shape == (5, want[1], want[0], 3) and fps == 5
    for frame, colour in zip(frames, COLOURS, strict=True):
        inner = frame[2:size[1] - 4, 2:size[0] - 4].astype(int)                 # away from the black line, which bleeds
        assert np.abs(inner - colour).max() <= 8                                # 4:2:0 in 8 bits, and compression
    assert [p.name for p in tmp_path.iterdir()] == ['a.mp4']


def test_grey_pictures(tmp_path):
    video_files.write_mp4(pictures((16, 16), 'L'), str(tmp_path / 'a.mp4'), fps=30)
    assert np.abs(read_video(tmp_path / 'a.mp4')[0][:, 8, 8].astype(int) - np.array(COLOURS)[:, :1]).max() <= 3


def test_pngs(tmp_path):
    assert video_files.write_pngs(pictures((8, 6)), str(tmp_path / 'out')) == 5
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == [f'frame{i:05d}.png' for i in range(5)]
    with PIL.Image.open(tmp_path / 'out' / 'frame00002.png') as picture:
        assert np.asarray(picture)[3, 3].tolist() == list(COLOURS[2])
    with pytest.raises(UserError, match='out: there are frames of a video in it; delete them or choose another folder'):
        video_files.write_pngs(pictures((8, 6)), str(tmp_path / 'out'))


def test_nothing_is_left_of_a_video_that_fails(tmp_path):
    def broken():
        yield from pictures((16, 16))
        raise UserError('the generator broke')
    with pytest.raises(UserError, match='the generator broke'):
        video_files.write_mp4(broken(), str(tmp_path / 'a.mp4'), fps=5)
    assert list(tmp_path.iterdir()) == []


def test_ffmpeg_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(video_files, 'QUALITY', ['-crf', 'high'])
    with pytest.raises(UserError, match=r'a\.mp4: cannot be written: ffmpeg says .+'):
        video_files.write_mp4(pictures((640, 480)), str(tmp_path / 'a.mp4'), fps=5)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r'none/a\.mp4: cannot be written'):
        video_files.write_mp4(pictures((16, 16)), str(tmp_path / 'none' / 'a.mp4'), fps=5)


def test_what_an_mp4_needs(monkeypatch):
    video_files.check_mp4('do without')
    monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)
    with pytest.raises(UserError, match='mp4: the package imageio-ffmpeg cannot be imported .*; pip install '
                                        'imageio-ffmpeg, or do without'):
        video_files.check_mp4('do without')


def test_a_machine_without_ffmpeg(monkeypatch):
    import imageio_ffmpeg

    def nothing():
        raise RuntimeError('No ffmpeg exe could be found.')
    monkeypatch.setattr(imageio_ffmpeg, 'get_ffmpeg_exe', nothing)
    with pytest.raises(UserError, match='mp4: imageio-ffmpeg has no ffmpeg for this machine; install ffmpeg, or '
                                        'do without'):
        video_files.check_mp4('do without')

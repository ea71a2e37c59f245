"""Pieces of messages."""

from dnnlib.text import gist, one_line, size_of, some


def test_some_of_many():
    assert some(['a', 'b', 'c'], 3) == 'a, b, c' and some(list('abcd'), 3) == 'a, b, c, ... (4 in all)'
    assert some([]) == ''


def test_sizes_have_the_width_first():
    assert (size_of(3, 48, 64), size_of(1, 8, 8)) == ('64x48 RGB', '8x8 grey')


def test_the_texts_of_others_become_one_short_line():
    assert one_line('two\n  lines ') == 'two lines'
    assert one_line('x' * 200) == 'x' * 200 and one_line('x' * 201) == 'x' * 200 + '...'


def test_the_gist_of_an_exception():
    err = ValueError('first  line\n\n  last line\n')
    assert gist(err) == 'ValueError: first line last line'
    assert (gist(err, line=0), gist(err, line=-1)) == ('ValueError: first line', 'ValueError: last line')
    assert gist(ValueError()) == gist(ValueError('\n'), line=-1) == 'ValueError'

"""Every program in benchmarks/ says what it does and ends, when it is asked with --help."""

import pathlib
import runpy
import sys

import pytest

BENCHMARKS = pathlib.Path(__file__).parent.parent / 'benchmarks'
PROGRAMS = sorted(path.name for path in BENCHMARKS.glob('*.py') if "__name__ == '__main__'" in path.read_text())


@pytest.mark.parametrize('name', PROGRAMS)
def test_help(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'path', [str(BENCHMARKS), *sys.path])
    monkeypatch.setattr(sys, 'argv', [name, '--help'])
    monkeypatch.setenv('KDGAN_CACHE_DIR', 'none')
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / name), run_name='__main__')
    out = capsys.readouterr().out
    assert ended.value.code == 0 and out.lower().startswith(f'usage: {name}') and len(out.strip().splitlines()) > 3

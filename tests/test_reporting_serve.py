"""The server of `report.py serve`: what it answers, and what it refuses."""

import http.client
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys

import pytest
from conftest import run_cli
from made_runs import make_run, serving, tick, write_lines

import report
from dnnlib import ports
from reporting import serve

ROOT = pathlib.Path(__file__).parent.parent
SECRET = 'a secret of elsewhere'


@pytest.fixture
def folder(tmp_path):
    """Two runs, something that is none, and, outside, a run and a file that nobody may see."""
    (tmp_path / 'outside.txt').write_text(SECRET)
    make_run(tmp_path / 'other', options_given=dict(note=SECRET))
    folder = tmp_path / 'runs'
    make_run(folder / '00000-a & b')
    make_run(folder / '00001-<i>', ticks=3)
    (folder / 'notes').mkdir()
    (folder / 'notes.txt').write_text(SECRET)
    return folder


def get(server, path, method='GET', **headers):
    """-> (status, headers, text); the path is sent as it is."""
    connection = http.client.HTTPConnection(serve.HOST, server.server_port, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    content = answer.read().decode('utf-8', 'replace')
    connection.close()
    return answer.status, dict(answer.headers), content


def test_it_lists_the_runs_and_shows_each(folder):
    with serving(folder) as server:
        status, headers, text = get(server, '/')
        assert status == 200 and re.findall('href="(/run/[^"]*)"', text) == [
            '/run/00001-%3Ci%3E',
            '/run/00000-a%20%26%20b',
        ]
        assert '00001-&lt;i&gt;' in text and 'notes' not in text and '3 of 10 kimg' in text and SECRET not in text
        assert (
            "script-src 'self'" in headers['Content-Security-Policy'] and headers['X-Content-Type-Options'] == 'nosniff'
        )
        status, _, text = get(server, '/run/00000-a%20%26%20b')
        assert status == 200 and '<h1>00000-a &amp; b</h1>' in text
        pictures = set(re.findall(r'/picture/[0-9a-f]{32}\.jpg', text))
        assert len(pictures) == 6
        assert all(get(server, address)[1]['Content-Type'] == 'image/jpeg' for address in pictures)
        status, _, text = get(server, '/compare?run=00000-a+%26+b&run=00001-%3Ci%3E')
        assert status == 200 and '2 runs compared' in text
        assert [get(server, f'/{name}')[0] for name in ('report.css', 'report.js', 'favicon.ico')] == [200] * 3
        status, headers, text = get(server, '/', 'HEAD')
        assert status == 200 and text == '' and int(headers['Content-Length']) > 0


@pytest.mark.parametrize(
    'path',
    [
        '/../outside.txt',
        '/run/../../outside.txt',
        '/run/..%2F..%2Foutside.txt',
        '/run/%2e%2e/other',
        '/run/..',
        '/run/%2e%2e%2fother',
        '/run/.',
        '/run/',
        '/run',
        '/run/../other',
        '/run//etc',
        '/run/%252e%252e%252fother',
        '/run/..\\other',
        '/run/..%5cother',
        '/run/other%00',
        '/notes.txt',
        '/run/notes.txt',
        '/run/notes',
        '/run/00000-a%20%26%20b/stats.jsonl',
        '/run/00000-a%20%26%20b/../../../outside.txt',
        '/picture/../outside.txt',
        '/picture/x.jpg',
        '/stamp?run=../other',
        '/compare?run=../other&run=00001-%3Ci%3E',
        '/%2e%2e/outside.txt',
        '//outside.txt',
        '/run/link',
        '/compare',
        '/compare?run=00001-%3Ci%3E',
        '*',
        'http://elsewhere/other',
        '/run/%ff',
    ],
)
def test_nothing_else_is_at_any_address(path, folder):
    (folder / 'link').symlink_to(folder.parent / 'other')
    with serving(folder) as server:
        status, _, text = get(server, path)
        assert status == (403 if 'elsewhere' in path else 404) and SECRET not in text and 'Traceback' not in text


@pytest.mark.parametrize('name', ['training_options.json', 'fakes000002.png', 'samples'])
def test_a_run_with_links_that_lead_out_is_not_shown(name, folder):
    (folder / '00000-a & b' / name).unlink(missing_ok=True)
    (folder / '00000-a & b' / name).symlink_to(folder.parent / 'other' / ('' if name == 'samples' else name))
    with serving(folder) as server:
        status, _, text = get(server, '/run/00000-a%20%26%20b')
        assert (
            status == 404
            and f'{name} is a link that leads out of the folder that is served' in text
            and SECRET not in text
        )
        status, _, text = get(server, '/')
        assert status == 200 and 'is a link that leads out' in text and SECRET not in text


def test_only_pages_of_this_address_are_answered(folder):
    """A name of elsewhere may be made to lead here; its pages must not read what is here."""
    with serving(folder) as server:
        assert get(server, '/', Host='elsewhere.example')[0] == 403
        assert get(server, '/', Host=f'localhost:{server.server_port}')[0] == 200
        assert get(server, '/', 'POST')[0] == 501
        assert server.server_address[0] == '127.0.0.1'


def test_the_list_shows_the_last_grid_that_can_be_read(folder):
    with serving(folder) as server:
        whole = re.findall(r'/picture/\w+\.jpg', get(server, '/')[2])
        assert len(whole) == 2
        run = folder / '00000-a & b'
        (run / 'fakes000004.png').write_bytes((run / 'fakes000004.png').read_bytes()[:40])
        now = re.findall(r'/picture/\w+\.jpg', get(server, '/')[2])
        assert now[0] == whole[0] and len(now) == 2
        shown = re.findall(r'/picture/\w+\.jpg', get(server, '/run/00000-a%20%26%20b')[2])
        assert now[1] in shown and whole[1] not in shown


def test_pages_learn_that_something_is_new(folder):
    run = folder / '00001-<i>'
    with serving(folder) as server:
        before = get(server, '/stamp?run=00001-%3Ci%3E')[2]
        (run / 'report.html').write_text('no news')
        assert before == get(server, '/stamp?run=00001-%3Ci%3E')[2] and before in get(server, '/run/00001-%3Ci%3E')[2]
        write_lines(run / 'stats.jsonl', [tick(number) for number in range(7)])
        os.utime(run / 'stats.jsonl', (1, 1))
        assert before != get(server, '/stamp?run=00001-%3Ci%3E')[2]
        assert '7 of 10 kimg' in get(server, '/run/00001-%3Ci%3E')[2]


def test_the_next_port_is_taken_where_one_is(folder, monkeypatch):
    with socket.socket() as other:
        other.bind((serve.HOST, 0))
        other.listen()
        taken = other.getsockname()[1]
        code, text = run_cli(report.main, 'serve', str(folder), f'--port={taken}')
        assert code == 1 and f'--port={taken}: is taken' in text
        monkeypatch.setattr(serve, 'PORT', taken)
        server = serve.start(str(folder))
        server.server_close()
        assert taken < server.server_port < taken + ports.MORE_PORTS


def test_what_cannot_be_served_is_refused(folder):
    code, text = run_cli(report.main, 'serve', str(folder / 'none'))
    assert code == 1 and 'there is no such folder' in text
    code, text = run_cli(report.main, 'serve', str(folder / '00001-<i>'))
    assert code == 1 and f'is itself a run; name the folder that it lies in: {folder}' in text


def test_it_says_its_address_and_ends_quietly(folder):
    command = [sys.executable, 'report.py', 'serve', str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert re.fullmatch(
            rf'Serving {re.escape(str(folder))} at http://127\.0\.0\.1:\d+/ \(this machine only\)\. Ctrl-C ends it\.\n',
            line,
        )
        process.send_signal(signal.SIGINT)
        try:
            output, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, output.strip(), errors) == (0, 'Ended.', '')

"""What happened to a run besides training: starts, steps left out, rollbacks, warnings, its end. All texts are our own.
A log may name folders, users and machines, which a page for others must not: only numbers and sentences without a slash
are taken from it.
"""

import bisect
import re

from .numbers import is_number

TICK = re.compile(r'tick \d+ +(?:kimg +)?([\d.]+) ')              # older runs have the titles within the line
ROLLBACK = re.compile(r'Warning: .* up to ([\d.]+) kimg .*Back to ([\d.]+) kimg, with ([\d.e-]+) times the learning')
LEFT_OUT = re.compile(r'Warning: \d+ of \d+ \w+ steps were left out')              # bad-steps.jsonl has them one by one
ENDED = re.compile(r'Ended at ([\d.]+) kimg by \w+: (.*)')
ELSEWHERE = 'A warning, which log.txt has in full.'


def collect(run) -> list[dict]:
    """[dict(kimg, kind: 'resume' | 'skipped' | 'rollback' | 'warning' | 'end', text)], by images seen."""
    found = [*_resumes(run.machines), *_skipped(run.bad_steps, run.ticks), *_of_log(run.log)]
    return sorted(found, key=lambda event: event['kimg'])


def has_ended(run) -> bool:
    """Whether an observer has ended the run before its full length."""
    return any(ENDED.match(line) for line in run.log[-200:])


def _event(at, kind, text):
    return dict(kimg=round(at, 3), kind=kind, text=text)


def _resumes(machines):
    for start in machines[1:]:
        if is_number(start.get('cur_nimg')):
            where = f' on {start["device"]}' if isinstance(start.get('device'), str) else ''
            yield _event(start['cur_nimg'] / 1000, 'resume', f'Continued{where}.')


def _skipped(bad_steps, ticks):
    """One event for each phase and tick."""
    ends = [tick['Progress/kimg'] for tick in ticks]
    counts = {}
    for step in bad_steps:
        if is_number(step.get('cur_nimg')) and isinstance(step.get('phase'), str):
            number = bisect.bisect_left(ends, step['cur_nimg'] / 1000)
            first, count = counts.get((number, step['phase']), (step['cur_nimg'], 0))
            counts[number, step['phase']] = min(first, step['cur_nimg']), count + 1
    for (_, phase), (first, count) in counts.items():
        what = '1 step' if count == 1 else f'{count} steps'
        yield _event(first / 1000, 'skipped', f'{what} of {phase} left out: a gradient was infinite or NaN.')


def _of_log(lines):
    at = 0.0
    for line in lines:
        if tick := TICK.match(line):
            at = float(tick[1])
        elif match := ROLLBACK.match(line):
            text = f'Back from {match[1]} kimg to {match[2]} kimg, learning rate times {match[3]}.'
            yield _event(float(match[1]), 'rollback', text)
        elif match := ENDED.match(line):
            yield _event(float(match[1]), 'end', _public(f'Ended: {match[2]}', 'Ended by an observer.'))
        elif line.startswith('Warning: ') and not LEFT_OUT.match(line):
            yield _event(at, 'warning', _public(line.removeprefix('Warning: '), ELSEWHERE))


def _public(text, instead):
    text = text[:1].upper() + text[1:]
    return instead if re.search(r'[/\\~@]', text) else text

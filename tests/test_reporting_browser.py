"""The pages about runs in a real browser: Chromium, if it is installed, through Playwright."""

import re

import browsing
import pytest
from browsing import CONTRAST, LIMIT
from made_runs import make_run, serving, tick, write_lines

from reporting import compare_page, run_page, serve

HOSTILE = '<script>alert(1)<∕script> "quoted" \'single\' <img src=x onerror=alert(2)> 😀'
pytestmark = [browsing.NEEDED]
sync_api = pytest.importorskip('playwright.sync_api', reason='pip install playwright', exc_type=ImportError)

@pytest.fixture(scope='module')
def browser():
    with browsing.started() as browser:
        yield browser


@pytest.fixture
def open_page(browser):
    with browsing.quiet_pages(browser) as open_page:
        yield open_page


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """A run with a hostile name, with its page, and another one."""
    folder = tmp_path_factory.mktemp('runs')
    hostile = make_run(folder / HOSTILE, terms={'x': dict(class_name='a.B', weight=HOSTILE)})
    write_lines(hostile / 'stats.jsonl', [tick(number, **{f'Loss/{HOSTILE}': 1.0}) for number in range(10)])
    run_page.write(str(hostile))
    make_run(folder / '00001-other', ticks=6, loss_kwargs=dict(r1_gamma=2.5))
    return folder


@pytest.fixture(scope='module')
def address(runs):
    return (runs / HOSTILE / 'report.html').as_uri()


def test_curves_have_the_points_of_the_run(open_page, address):
    page = open_page(address)
    curves = page.evaluate('charts.made.map(entry => [entry.panel.title, entry.plot.data])')
    titles = [title for title, _ in curves]
    assert titles == ['fid5k_full', 'Is D overfitting?', 'Copies and repeats', 'Losses', 'Losses of the methods',
                      'Time', 'Memory']
    assert dict(curves)['fid5k_full'] == [[1, 2, 3], [30, 20, 25]]
    x, g, *_ = dict(curves)['Losses']
    assert x == list(range(1, 11)) and g == [1 + i / 10 for i in range(10)]
    drawn = page.evaluate('''charts.made.map(({plot}) => {
        const pixels = plot.ctx.getImageData(0, 0, plot.ctx.canvas.width, plot.ctx.canvas.height).data;
        return new Set(new Uint32Array(pixels.buffer)).size;
    })''')
    assert min(drawn) > 20                  # colours: lines, letters and their soft edges
    page.locator('button.log').nth(3).click()
    assert page.evaluate('charts.made[3].plot.scales.y.distr') == 3
    legend = page.locator('.u-legend').nth(0)
    assert legend.locator('.u-value').all_inner_texts() == ['3', '25']            # the last ones
    page.locator('.u-over').nth(0).hover(position=dict(x=2, y=60))
    sync_api.expect(legend).to_contain_text('30', timeout=LIMIT)


def test_the_slider_changes_the_picture(open_page, address):
    """Each grid has a colour of its own."""
    page = open_page(address)
    colour = '''async () => {
        const image = document.getElementById('fakes-0');
        await image.decode();
        const canvas = new OffscreenCanvas(1, 1).getContext('2d');
        canvas.drawImage(image, 0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3).map(value => Math.round(value / 255));
    }'''
    slider, label = page.locator('#step'), page.locator('#at')
    assert label.inner_text() == '4 kimg' and page.evaluate(colour) == [1, 1, 0]
    slider.press('ArrowLeft')
    assert label.inner_text() == '3 kimg' and page.evaluate(colour) == [0, 0, 1]
    assert slider.get_attribute('aria-valuetext') == '3 kimg' and page.locator('#fakes-0').get_attribute(
        'alt'
    ).endswith('3 kimg')
    slider.press('Home')
    assert label.inner_text() == 'before the training' and page.evaluate(colour) == [0, 0, 0]
    page.locator('#play').click()
    sync_api.expect(label).to_have_text('4 kimg', timeout=LIMIT)
    assert page.locator('#marks i').count() == 4            # two warnings, one start and the best


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('width', [390, 1180])
def test_a_page_is_legible(width, scheme, open_page, address):
    """Without scrolling sideways; texts have the contrast of WCAG 2 AA, pictures alternative texts, controls names."""
    page = open_page(address, width, scheme)
    assert page.evaluate('document.documentElement.scrollWidth') <= width
    found = page.evaluate(CONTRAST)
    assert len(found) > 80 and [entry for entry in found if entry[0] < 4.5] == []
    assert (
        page.evaluate("getComputedStyle(document.body).backgroundColor")
        == dict(light='rgb(252, 251, 248)', dark='rgb(22, 23, 26)')[scheme]
    )
    assert browsing.bad_images(page) == []
    assert page.get_by_role('slider', name='Images seen').count() == 1
    assert page.get_by_role('img', name=re.compile('^fid5k_full over thousands of images')).count() == 1


def test_hostile_names_are_text(open_page, address):
    page = open_page(address)
    assert page.locator('h1').inner_text() == HOSTILE and page.title() == HOSTILE
    assert page.locator('.u-legend').nth(4).inner_text().count(HOSTILE) == 1
    assert (
        page.evaluate("document.querySelectorAll('script').length") == 2
        and page.evaluate("document.querySelector('img[src=x]')") is None
    )


def test_a_comparison(runs, tmp_path, open_page):
    path = tmp_path / 'compare.html'
    compare_page.write([str(runs / HOSTILE), str(runs / '00001-other')], str(path))
    page = open_page(path.as_uri(), 390)
    assert page.evaluate('document.documentElement.scrollWidth') <= 390
    losses = page.evaluate("charts.made.find(entry => entry.panel.title === 'Loss of G').plot.data")
    assert losses[1] == [1 + i / 10 for i in range(10)] and losses[2] == [1 + i / 10 for i in range(6)] + [None] * 4
    page.locator('#step').press('Home')
    assert page.locator('#at-0').inner_text() == page.locator('#at-1').inner_text() == 'before the training'
    assert [entry for entry in page.evaluate(CONTRAST) if entry[0] < 4.5] == []


def test_files_beside_a_page(runs, tmp_path, open_page):
    run_page.write(str(runs / '00001-other'), str(tmp_path / 'x.html'), str(tmp_path / 'some assets'))
    page = open_page((tmp_path / 'x.html').as_uri())
    assert page.evaluate('charts.made.length') == 6 and page.evaluate(
        "[...document.images].every(image => image.naturalWidth > 0)"
    )
    page.locator('#step').press('Home')
    sync_api.expect(page.locator('#fakes-0')).to_have_attribute('src', 'some%20assets/fakes_init.jpg', timeout=LIMIT)


@pytest.mark.parametrize('width', [390, 1180])
def test_the_list_of_runs_is_legible(width, runs, open_page):
    """Names and progress have the width of the page, less a tick box and, where there is room, a picture."""
    with serving(runs) as server:
        page = open_page(server.address, width)
        assert page.evaluate('document.documentElement.scrollWidth') <= width
        widths = page.evaluate("[...document.querySelectorAll('.runs progress')].map(part => part.clientWidth)")
        assert len(widths) == 2 and min(widths) > width * 0.6


def test_pages_of_the_server_follow_the_run(runs, open_page, monkeypatch):
    monkeypatch.setattr(serve, 'LOOK_EVERY', 0.5)
    with serving(runs) as server:
        page = open_page(server.address)
        assert page.get_by_role('link').all_inner_texts() == [HOSTILE, '00001-other']
        page.get_by_role('link', name='00001-other').click()
        expect = sync_api.expect
        expect(page.locator('.u-legend')).to_have_count(6, timeout=LIMIT)
        page.locator('#step').press('ArrowLeft')
        expect(page.locator('#at')).to_have_text('3 kimg', timeout=LIMIT)
        write_lines(runs / '00001-other' / 'stats.jsonl', [tick(number) for number in range(8)])
        expect(page.locator('.progress strong')).to_have_text('8 of 10 kimg', timeout=LIMIT)
        expect(page.locator('.u-legend')).to_have_count(6, timeout=LIMIT)
        expect(page.locator('#at')).to_have_text('3 kimg', timeout=LIMIT)

"""docs/few_shot.ipynb: all of it runs, on the drawn faces; and what it shows is there."""

import base64
import html
import io
import os
import pathlib
import re
import zipfile

import browsing
import PIL.Image
import pytest

ROOT = pathlib.Path(__file__).parent.parent
NOTEBOOK = ROOT / 'docs' / 'few_shot.ipynb'
SMALL = "KIMG, EXTRA = 0.096, ['--health=0', '--device=cpu', '--tick=0.048', '--snap=1']\nFOLDER = 'made'"

nbformat = pytest.importorskip('nbformat', reason='pip install nbclient ipykernel')


@pytest.fixture(scope='module')
def executed(tmp_path_factory):
    """(the notebook after it ran, with a tiny budget, its folder)."""
    nbclient = pytest.importorskip('nbclient', reason='pip install nbclient ipykernel')
    pytest.importorskip('ipykernel', reason='pip install nbclient ipykernel')
    folder = tmp_path_factory.mktemp('notebook')
    (folder / 'docs').mkdir()
    (folder / 'kd-dlgan').symlink_to(ROOT)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    at, = [i for i, cell in enumerate(notebook.cells) if 'parameters' in cell.metadata.get('tags', [])]
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell(SMALL))
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', CUDA_VISIBLE_DEVICES='',
               **{name: str(folder / 'home') for name in ('IPYTHONDIR', 'JUPYTER_CONFIG_DIR', 'JUPYTER_RUNTIME_DIR')})
    client = nbclient.NotebookClient(notebook, timeout=1000, resources=dict(metadata=dict(path=str(folder))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('JUPYTER_PLATFORM_DIRS', '1')
        client.execute(env=env)
    return notebook, folder / 'made'


def shown(notebook, kind):
    """What the cells show of this kind, one after the other."""
    return [output.data[kind] for cell in notebook.cells if cell.cell_type == 'code' for output in cell.outputs
            if output.output_type in ('display_data', 'execute_result') and kind in output.data]


def test_it_is_kept_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    codes = [cell for cell in notebook.cells if cell.cell_type == 'code']
    assert len(codes) == 8 and all(cell.outputs == [] and cell.execution_count is None for cell in codes)
    for name in re.findall(r'\b(?:docs/)?\w+\.(?:md|py)\b', NOTEBOOK.read_text()):
        assert (ROOT / name).is_file() or (ROOT / 'docs' / name).is_file() or name == 'model_card.md', name


def test_it_runs(executed):
    notebook, folder = executed
    text = ''.join(output.text for cell in notebook.cells if cell.cell_type == 'code' for output in cell.outputs
                   if output.output_type == 'stream')
    assert '$ python train.py' in text and '--init-from=demo' in text and 'Saved grid.png' in text
    grid, sheet = [PIL.Image.open(io.BytesIO(base64.b64decode(content))) for content in shown(notebook, 'image/png')]
    assert grid.width >= 6 * 64 and sheet.width == 5 * 96
    assert any('few-shot.zip' in text for text in shown(notebook, 'text/html'))
    with zipfile.ZipFile(folder / 'few-shot.zip') as archive:
        names = archive.namelist()
    # No training image is in it: they are in report.html and neighbors.png
    assert {'model_card.md', 'grid.png'} == {name for name in names if not name.endswith('.safetensors')}
    assert [name for name in names if name.endswith('.safetensors')] == ['network-snapshot-000000.096.safetensors']


def test_the_page_of_the_run_is_in_it(executed):
    frame, = [text for text in shown(executed[0], 'text/html') if '<iframe' in text]
    page = html.unescape(re.search('srcdoc="(.*?)"', frame, re.S)[1])
    report, = executed[1].glob('runs/0*/report.html')
    assert page == report.read_text(encoding='utf-8')


@browsing.NEEDED
def test_the_page_works_within_the_notebook(executed, tmp_path):
    """Its slider moves the samples, in a frame of another page."""
    pytest.importorskip('playwright', reason='pip install playwright')
    frame, = [text for text in shown(executed[0], 'text/html') if '<iframe' in text]
    (tmp_path / 'cell.html').write_text(f'<!doctype html><meta charset="utf-8"><title>x</title>{frame}')
    with browsing.started() as browser, browsing.quiet_pages(browser) as open_page:
        page = open_page((tmp_path / 'cell.html').as_uri()).frame_locator('iframe')
        page.locator('#step').press('Home')
        assert page.locator('#at').inner_text() == 'before the training'

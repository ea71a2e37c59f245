"""The snapshots and the state of a run on disk, written in the background."""

import functools
import os

import dnnlib
from dnnlib import files
from dnnlib.published import without_folders
from torch_utils import checkpoint, distributed
from torch_utils.background_writer import BackgroundWriter

from ..snapshots import files as snapshots
from . import files as run_files
from . import keep as snapshot_keep
from . import state_files
from .dataset_facts import DatasetFacts


class RunStore:
    """The snapshots and the state of the run in `run_dir`; for the first process.

    The caller waits only until the tensors are copied off the device. If writing fails, the next call raises UserError.

    Args:
        config:         of the run: snapshot_networks, snapshot_keep, kimg_per_tick, metrics.
        network_kwargs: {name: constructor arguments} of the networks.
    """

    def __init__(self, run_dir, config, dataset, network_kwargs):
        self.run_dir, self.config, self.dataset, self.network_kwargs = run_dir, config, dataset, network_kwargs
        self.writer = BackgroundWriter()
        self.wait, self.close = self.writer.wait, self.writer.close
        self.facts = None

    def snapshot_path(self, cur_nimg):
        return run_files.snapshot_path(self.run_dir, cur_nimg, self.config['kimg_per_tick'])

    def read_facts(self, expected_hash):
        """Reads all images once for `dataset.facts()`, early, so that no snapshot has to wait for it; compares them
        with what the run began with."""
        self.facts = DatasetFacts(self.dataset, expected_hash, self.run_dir)

    def check(self):
        """Raises errors of the background work; does not wait."""
        self.writer.check()
        if self.facts is not None:
            self.facts.check()

    def save_snapshot(self, cur_nimg, networks, history):
        """networks: {name: module}; those that the configuration asks for are written. history: forks and rollbacks of
        the run."""
        networks = {name: networks[name] for name in self.config['snapshot_networks']}
        tensors, info = snapshots.pack(networks, self.network_kwargs,
                                       dict(options=dict(self.config), cur_nimg=cur_nimg, history=list(history),
                                            class_names=self.dataset.class_names))
        self.writer.submit(self._write_snapshot, self.snapshot_path(cur_nimg), checkpoint.copies(tensors), info)

    def _write_snapshot(self, path, tensors, info):
        info['training']['dataset'] = without_folders(self.facts.get())
        checkpoint.save(path, 'network', tensors, info)

    def save_state(self, states, progress):
        """states: {name: state dict} of everything that changes; progress: JSON-able."""
        tensors, nests = {}, {}
        for name, state in states.items():
            part, nests[name] = checkpoint.flatten(name, state)
            tensors.update(part)
        info = dict(progress, state=nests, networks=self.network_kwargs, dataset_hash=self.facts.hash())
        self.writer.submit(state_files.write, self.run_dir, checkpoint.copies(tensors), info)

    def load_state(self, tell, accept=lambda _info: True):
        """-> ({name: state dict}, progress) of the newest good state that `accept(progress)` takes, or None. All
        processes must call it.

        Unfinished files of a killed process are removed. tell: function of a line of text, for warnings.
        """
        path = distributed.agree(lambda: self._find_state(tell, accept))
        return None if path is None else read_state(path)

    def _find_state(self, tell, accept):
        self.wait()
        files.remove_unfinished(self.run_dir)
        return state_files.find(self.run_dir, tell, accept)

    def metrics_measured(self, cur_nimg):
        """Copies the metrics on record into the snapshot of `cur_nimg`, deletes the snapshots that need not be kept,
        and has the page about the run written again."""
        path = self.snapshot_path(cur_nimg)
        measured = run_files.measurements(self.run_dir, path, self.config['metrics'], cur_nimg)
        if measured:
            self.writer.submit(_add_metrics, path, list(measured.values()))
        if self.config['snapshot_keep'] is not None:
            self.writer.submit(snapshot_keep.prune, self.run_dir, self.config['snapshot_keep'], self.config['metrics'])
        self.write_report()

    def write_report(self):
        """Makes the page about the run, with the function that the configuration names, if any."""
        if report_kwargs := self.config.get('report_kwargs'):
            self.writer.submit(functools.partial(dnnlib.util.call_func_by_name, self.run_dir, **report_kwargs))


def read_state(path):
    """-> ({name: state dict}, progress), as `RunStore.save_state` took them."""
    tensors, info = checkpoint.load(path, state_files.KIND, remedy=state_files.REMEDY)
    return {name: checkpoint.unflatten(nest, tensors) for name, nest in info['state'].items()}, info


def _add_metrics(path, records):
    if os.path.isfile(path):                # it may have been moved away
        snapshots.add_metrics(path, records)

"""What a run keeps on the disk besides its logs: network snapshots and the training state, written while the training goes on."""

import os

from dnnlib import files
from torch_utils import checkpoint, distributed
from torch_utils.background_writer import BackgroundWriter

from . import run_files, snapshot_keep, snapshots


class RunStore:
    """The snapshots and the state of the run in `run_dir`; for the first process.

    The caller waits only until the tensors are copied off the device. What cannot be written raises UserError at the next call.

    Args:
        config:         of the run: snapshot_networks, snapshot_keep, kimg_per_tick, metrics.
        network_kwargs: {name: constructor arguments} of the networks.
    """

    def __init__(self, run_dir, config, dataset, network_kwargs):
        self.run_dir, self.config, self.dataset, self.network_kwargs = run_dir, config, dataset, network_kwargs
        self.state_path = os.path.join(run_dir, run_files.STATE_FILE)
        self.writer = BackgroundWriter()
        self.check, self.wait, self.close = self.writer.check, self.writer.wait, self.writer.close

    def snapshot_path(self, cur_nimg):
        return run_files.snapshot_path(self.run_dir, cur_nimg, self.config['kimg_per_tick'])

    def read_facts(self):
        """Reads all images once for `dataset.facts()`, early, so that no snapshot has to wait for it."""
        self.writer.submit(self.dataset.facts)

    def save_snapshot(self, cur_nimg, networks):
        """networks: {name: module}; those that the configuration asks for are written."""
        networks = {name: networks[name] for name in self.config.get('snapshot_networks', ['G_ema'])}
        tensors, info = snapshots.pack(networks, self.network_kwargs, dict(options=dict(self.config), cur_nimg=cur_nimg,
                                                                           class_names=self.dataset.class_names))
        self.writer.submit(self._write_snapshot, self.snapshot_path(cur_nimg), checkpoint.copies(tensors), info)

    def _write_snapshot(self, path, tensors, info):
        info['training']['dataset'] = self.dataset.facts()
        checkpoint.save(path, 'network', tensors, info)

    def save_state(self, states, progress):
        """states: {name: state dict} of everything that changes; progress: JSON-able."""
        tensors, nests = {}, {}
        for name, state in states.items():
            part, nests[name] = checkpoint.flatten(name, state)
            tensors.update(part)
        info = dict(progress, state=nests, networks=self.network_kwargs)
        self.writer.submit(checkpoint.save, self.state_path, 'training-state', checkpoint.copies(tensors), info)

    def load_state(self):
        """-> ({name: state dict}, progress), or None if there is no state. What a killed process left unfinished is removed."""
        if distributed.get_rank() == 0:
            files.remove_unfinished(self.run_dir)
        if not os.path.isfile(self.state_path):
            return None
        tensors, info = checkpoint.load(self.state_path, 'training-state')
        return {name: checkpoint.unflatten(nest, tensors) for name, nest in info['state'].items()}, info

    def metrics_measured(self, cur_nimg):
        """Copies the metrics on record into the snapshot of `cur_nimg`, then deletes the snapshots that need not be kept."""
        path = self.snapshot_path(cur_nimg)
        measured = run_files.measurements(self.run_dir, path, self.config['metrics'])
        if measured:
            self.writer.submit(_add_metrics, path, list(measured.values()))
        if self.config.get('snapshot_keep') is not None:
            self.writer.submit(snapshot_keep.prune, self.run_dir, self.config['snapshot_keep'], self.config['metrics'])


def _add_metrics(path, records):
    if os.path.isfile(path):                # somebody may have moved it away
        snapshots.add_metrics(path, records)

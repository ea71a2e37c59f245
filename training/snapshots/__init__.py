"""Networks in files: snapshots, pickles of StyleGAN2-ADA in both directions, the Hub.

Scripts read and write snapshots from here (docs/library.md).
"""

from .files import Snapshot, load_info, load_networks, save_networks

__all__ = ['Snapshot', 'load_info', 'load_networks', 'save_networks']

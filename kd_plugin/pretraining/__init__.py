"""Parts of `python -m kd_plugin.pretrain`."""

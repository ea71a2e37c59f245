"""Parts of `python -m kd_plugin.probe`."""

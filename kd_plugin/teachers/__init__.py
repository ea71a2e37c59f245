"""The frozen teachers, one file each; `kd_plugin.teacher` has their table."""

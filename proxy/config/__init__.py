"""From app-config files to one frozen Target per plugin.  Dry: files are read, nothing is dialled."""

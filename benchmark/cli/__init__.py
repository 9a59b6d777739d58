"""Options of the command families; each body is a module of ``benchmark/commands``, imported when run."""

"""Programs to run and to copy from: `python -m weightcast.examples.trainer_loop`."""

"""The command that evaluates frozen encoders: probes, standard benchmarks. `python -m deepsentinel.evaluate --help`."""

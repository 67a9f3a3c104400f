"""`python -m pilus_lab` is `pilus lab`."""

from pilus_lab.cli import lab

lab(prog_name="pilus lab")

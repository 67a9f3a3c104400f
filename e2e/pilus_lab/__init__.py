"""A Kubernetes cluster on one machine, for development, tests and the demo."""

from pilus_lab.lab import Lab, LabError, Place, wait_for

__all__ = ["Lab", "LabError", "Place", "wait_for"]

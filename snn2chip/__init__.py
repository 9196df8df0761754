"""snn2chip: compile trained torch spiking networks for Loihi-style hardware."""

__version__ = "0.1.0"

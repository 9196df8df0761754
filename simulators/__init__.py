"""Simulators of the integer law; import it as ``snn2chip.simulators``."""

if __name__ != "snn2chip.simulators":
    raise ImportError("import snn2chip.simulators, not simulators: the folder is linked into the package")

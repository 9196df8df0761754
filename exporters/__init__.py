"""File formats that a ChipNet can be written to; import it as ``snn2chip.exporters``."""

if __name__ != "snn2chip.exporters":
    raise ImportError("import snn2chip.exporters, not exporters: the folder is linked into the package")

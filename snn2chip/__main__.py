"""``python -m snn2chip``."""

from snn2chip.cli import main

if __name__ == "__main__":
    main()

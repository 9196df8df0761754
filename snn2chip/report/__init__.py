"""One page that shows a network, its accuracy, its spikes and its cost.

::

    collect       all numbers, from the network, the data and (with it) the trained model
    model         the trained model beside the chip: where they differ, weights before, membrane potentials
    timing        accuracy over time steps, early exit, accuracy and energy
    inexact       everything that is not exact, with its measured effect
    svg, words    marks and axes of a figure; numbers and names as they are written
    figures       of the network: shares, accuracy, time, cores, energy
    neurons       of neurons: rates, rasters, potentials, weights
    sections      what the template is given for each section
    page          HTML from the template: self-contained, no script, nothing fetched
"""

from snn2chip.report.collect import Content, Names, Options, collect
from snn2chip.report.page import page, summary

__all__ = ["Content", "Names", "Options", "collect", "page", "summary"]

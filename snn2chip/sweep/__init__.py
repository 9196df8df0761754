"""Many configurations of one network over one data set.

::

    config      the YAML file: options and their values, and which combinations of them
    planning    against the network: names of layers, which networks differ
    compiling   each quantisation once
    measuring   each network once, with all its cutoffs
    pareto      what no other configuration beats
    table, plot, folder, running
"""

"""Taking a network to the lab: circuits beyond NetX, the folder that runs there, and what comes back.

::

    circuit    networks with feedback and gates, and their law
    rolled     convolutions that were compiled to matrices, as convolutions
    check      recorded traces against expected ones; a part of every bundle
    compare    results of a chip against the simulators, layer by layer
    templates  the Python files, script and README that a bundle consists of
"""

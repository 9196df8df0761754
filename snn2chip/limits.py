"""What the integer registers hold, what Lava's simulator computes with, and what the NetX loader reads.

Sources: Lava ``proc/lif/models.py`` and ``proc/dense/models.py`` (lava-nc 0.10.0), NetX ``hdf5.py``
(lava-dl 0.6.0), Davies et al. 2018 (Loihi 1). The two columns matter: a :class:`~snn2chip.chip.ChipNet`
may hold whatever Lava computes exactly, the chip's registers are narrower.
"""

from __future__ import annotations

# The integer law (Lava fixed_pt)
DECAY_UNITY = 4096  # decays are fractions of 2^12
STATE_SHIFT = 6  # synaptic input, threshold and bias are aligned to bit 6 of u and v
STATE_LIMIT = 1 << 23  # u wraps beyond it, v is clipped to one less

# What Lava's fixed_pt models and the NetX loader hold
WEIGHT_MIN, WEIGHT_MAX = -256, 255
BIAS_MANTISSA_MIN, BIAS_MANTISSA_MAX = -(1 << 15), (1 << 15) - 1  # int16; wraps beyond
BIAS_EXPONENT = 6  # fixed by the loader
SUM_LIMIT = 1 << 24  # |weighted sum|: the shift by 6 has to stay inside int32
CONV_SUM_BITS = 24  # Lava's Conv wraps the sum to 24 bits, Dense does not
CONV_GROUPS_MAX = 127  # held in an int8 by Lava's Conv
MESSAGE_BITS_MAX = 16  # graded payload
DELAY_MAX = 62  # the loader clamps to it
STATE_EXPONENT = 6  # of sigma-delta and resonate-and-fire neurons; fixed by the loader
SPIKE_EXPONENT = 6  # of sigma-delta messages; the loader's default
SPIKE_EXPONENT_MAX = 7  # 3 bits
LAVA_THRESHOLD_MAX = 1 << 17  # the loader's default integrator: one above the register, v never exceeds it

# What the chip's registers hold
THRESHOLD_MAX = (1 << 17) - 1
HARDWARE_DECAY_MAX = 4095  # 12 bits
HARDWARE_BIAS_MIN, HARDWARE_BIAS_MAX = -(1 << 12), (1 << 12) - 1  # 13 bit mantissa

TARGETS = ("loihi1", "loihi2")

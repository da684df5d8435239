"""Raw-audio music generation with state-space models.

Importing this package alone loads nothing heavy (no torch): the data tools run in little memory.
"""

__version__ = "0.1.0"

"""The exceptions Lucid raises.

Each names the caller, the argument, its value and the rule it breaks, at the earliest line that knows.
"""


class ShapeError(ValueError):
    """A size, rank or geometry that cannot work."""


class DTypeError(TypeError):
    """An element type that is not supported or does not match another."""


class DeviceError(ValueError):
    """A device that does not exist here."""


class PlanError(RuntimeError):
    """A plan that the machine or the algorithm cannot carry out."""


class GradientError(RuntimeError):
    """A backward pass that cannot be taken: graph freed, saved value changed in place, no graph."""


class FormatError(ValueError):
    """A file that is damaged or is not what its name says."""


class ExportError(RuntimeError):
    """A model that another format cannot hold as it is."""

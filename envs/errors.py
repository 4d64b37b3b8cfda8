"""Errors and warnings of environments and data sets."""

from __future__ import annotations


class EnvironmentConfigError(ValueError):
    """An environment or trajectory was asked for with arguments that make no sense."""


class ActionError(ValueError):
    """An action has the wrong shape or is not a finite number."""


class RobotError(ValueError):
    """A robot cannot be used; the base of the errors below."""


class RobotNotFoundError(RobotError):
    """The name is neither a robot of ours, nor a model file, nor a registered environment."""


class ModelCompileError(RobotError):
    """MuJoCo refuses to compile the model file."""


class UnsupportedRobotError(RobotError):
    """The model has no joints that the data can be made of, or its end effector is unknown."""


class DataError(ValueError):
    """Data cannot be used for regression; the base of the errors below."""


class MissingDependencyError(ImportError):
    """A loader needs a package that is not installed."""


class DataFileError(DataError):
    """A file is missing, damaged, or not in the format that its loader reads."""


class MissingColumnsError(DataError):
    """A table, array file or recording lacks the columns or arrays that were named."""


class NonFiniteDataError(DataError):
    """Inputs or targets hold NaN or infinity."""


class DataShapeError(DataError):
    """Inputs, targets or trajectory labels have shapes that do not fit together."""


class SplitError(DataError):
    """There are too few trajectories or rows to split."""


class SettingsError(DataError):
    """A task or setting has an unknown name or an impossible value."""


class DataWarning(UserWarning):
    """The base of the warnings about data: it can be used, but something should be known."""


class ConstantColumnWarning(DataWarning):
    """A column never changes: it carries nothing, and its scale is taken to be 1."""


class DuplicateRowsWarning(DataWarning):
    """Test rows are also training rows: a test error would flatter the network."""


class ContiguousSplitWarning(DataWarning):
    """No trajectory labels: the rows were split in contiguous blocks."""


class ShuffledRowsWarning(DataWarning):
    """Rows are not in the order of time: no split by rows keeps trajectories apart."""


class CacheWarning(DataWarning):
    """A cached file was damaged, or the cache folder cannot be written."""

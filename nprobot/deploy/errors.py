"""Errors of deployment; each says what was given, what is allowed and what to do."""

from __future__ import annotations


class DeployError(Exception):
    """A policy cannot be deployed as asked; the subclasses say why."""


class SafetyConfigError(DeployError, ValueError):
    """A setting of the safety supervisor makes no sense for this policy."""


class RateError(DeployError, ValueError):
    """The policy, the robot and the loop do not agree on how often to act."""


class RobotError(DeployError):
    """The simulated robot cannot be made."""


class DisplayError(DeployError):
    """There is no way to show or draw the robot on this machine."""


class FlightRecordError(DeployError, ValueError):
    """A flight record cannot be read, or does not fit the policy."""


class MessageError(DeployError, ValueError):
    """A message to the server is not one it understands.

    Args:
        code: short name of the fault, for programs.
        message: what is wrong, for people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ServerError(DeployError):
    """The server cannot start."""

"""Errors that a user can mend; the command line prints their text and exits with code 2."""


class UsageError(ValueError):
    """A setting, file or combination that cannot work; the text says what to change."""


class CheckpointError(UsageError):
    """A checkpoint folder or file that is missing, incomplete or of another model."""


class PlanError(UsageError):
    """A plan that cannot be carried out; the text names the step."""

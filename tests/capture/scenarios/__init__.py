"""Every scenario, by family of scenarios; importing this declares them all in ``stage.SCENARIOS``."""

from tests.capture.scenarios import calls, paths, plain, real, servers, times

__all__ = ["calls", "paths", "plain", "real", "servers", "times"]

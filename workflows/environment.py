"""Settings of our dependencies that have to stand before they are imported."""

from __future__ import annotations

import os
import sys
from pathlib import Path

_DEFAULTS = {
    # Nobody's use is reported anywhere, unless they say so.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    # The study goes on without a tracking server; it must not wait minutes for one.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    # We keep the journal, show the progress and handle ctrl-C ourselves.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

_TOKEN = Path("~/.ray/auth_token").expanduser()


def prepare(address: str | None = None) -> None:
    """Set what the user has not set. Call it before Ray or MLflow is imported.

    Args:
        address: of a Ray cluster, when it is another one than this process starts.
    """
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    joins = (address or os.environ.get("RAY_ADDRESS", "local")) != "local"
    if joins and _TOKEN.exists() and "ray" not in sys.modules:
        # Ray turns tokens on by itself for a cluster that it starts, but not for one that it joins; once Ray is
        # imported it is too late to say so.
        os.environ.setdefault("RAY_AUTH_MODE", "token")

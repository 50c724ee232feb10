"""MLflow's pages on a study."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from mobo_mpq.workflows import environment
from mobo_mpq.workflows.home import Home
from mobo_mpq.workflows.tracking import tracking_address

from mobo_mpq.errors import InputError, WorkError


def serve(name: str | None, home_path: Path | None, tracking_uri: str | None, host: str, port: int) -> None:
    """Serve MLflow until interrupted; where a server runs already, only say where to look.

    Raises:
        InputError: there is no such study, or MLflow does not know it yet.
        WorkError: MLflow's server ended by itself.
    """
    environment.prepare()
    home = Home.of(home_path)
    folder = home.existing(name)
    address = tracking_address(home, tracking_uri)
    from mlflow.tracking import MlflowClient

    experiment = MlflowClient(tracking_uri=address).get_experiment_by_name(folder.name)
    if experiment is None:
        raise InputError(
            f"MLflow at {address} does not know study '{folder.name}'; 'mobo-mpq resume {folder.name}' uploads it"
        )
    page = f"/#/experiments/{experiment.experiment_id}/runs"
    if address.startswith(("http://", "https://")):
        print(address.rstrip("/") + page)
        return
    print(f"http://{host}:{port}{page}", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", address]
    command += ["--host", host, "--port", str(port), "--workers", "1"]
    with subprocess.Popen(command, env=os.environ.copy(), stdout=sys.stderr) as server:
        try:
            code = server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            raise
    if code:
        raise WorkError(f"MLflow's server ended with code {code}; is port {port} taken? choose another with --port")

"""MLflow's pages on a study."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote, urlencode

from mobo_mpq.errors import InputError, WorkError
from mobo_mpq.workflows import environment
from mobo_mpq.workflows.home import Home
from mobo_mpq.workflows.tracking import PARETO_TAG, tracking_address


def serve(name: str | None, home_path: Path | None, tracking_uri: str | None, host: str, port: int) -> None:
    """Serve MLflow until interrupted; where a server runs already, only say where to look.

    Prints the address of the Pareto policies, fastest first, and that of all runs.

    Raises:
        InputError: there is no such study, or MLflow does not know it yet.
        WorkError: MLflow's server ended by itself.
    """
    environment.prepare()
    home = Home.of(home_path)
    folder = home.existing(name)
    address = tracking_address(home, tracking_uri)
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    try:
        experiment = MlflowClient(tracking_uri=address).get_experiment_by_name(folder.name)
    except MlflowException as error:
        first = str(error).split("\n", 1)[0][:200]
        raise InputError(f"MLflow at {address} cannot be reached: {first}; check --tracking-uri") from None
    if experiment is None:
        raise InputError(
            f"MLflow at {address} does not know study '{folder.name}'; 'mobo-mpq resume {folder.name}' uploads it"
        )
    served = address.startswith(("http://", "https://"))
    root = address.rstrip("/") if served else f"http://{host}:{port}"
    print(f"{root}/#/experiments/{experiment.experiment_id}/runs?{_pareto_filter()}")
    print(f"{root}/#/experiments/{experiment.experiment_id}/runs", flush=True)
    if served:
        return
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


def _pareto_filter() -> str:
    """Query of MLflow's run table: the front alone, in the order of its first cost."""
    wanted = {
        "searchFilter": f'tags.`{PARETO_TAG}` = "true"',
        "orderByKey": "metrics.`latency_s`",
        "orderByAsc": "true",
    }
    return urlencode(wanted, quote_via=quote)

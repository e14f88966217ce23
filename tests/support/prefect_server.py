"""A Prefect server seen from outside, through its API."""

from __future__ import annotations

import time
from dataclasses import dataclass

import httpx


@dataclass
class Server:
    """One that answers at `url`."""

    url: str

    def ask(self, what: str, **filters: dict) -> list[dict]:
        """All objects of a kind that pass the filters."""
        answer = httpx.post(f"{self.url}/{what}/filter", json={**filters, "limit": 200}, timeout=30)
        assert answer.is_success, answer.text
        return answer.json()

    def wait_until_it_answers(self) -> None:
        for _ in range(600):
            try:
                if httpx.get(f"{self.url}/health", timeout=5).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError("the server does not answer")

    def wait_for_runs(self) -> dict[str, str]:
        """Flow name -> the state that its run ended in; waits for all runs to end."""
        for _ in range(1200):
            runs = self.ask("flow_runs")
            if all(run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") for run in runs):
                flows = {flow["id"]: flow["name"] for flow in self.ask("flows")}
                return {flows[run["flow_id"]]: run["state_name"] for run in runs}
            time.sleep(0.25)
        raise AssertionError(f"still {[run['state_name'] for run in runs]}")

    def page(self, place: str) -> str:
        """The address of a page of the UI."""
        return f"{self.url.removesuffix('/api')}/{place}"

    def run_id(self, flow: str) -> str:
        """Of the only run of a flow."""
        (run,) = self.ask("flow_runs", flows={"name": {"any_": [flow]}})
        return run["id"]

    def task_states(self, flow: str) -> dict[str, str]:
        """Task run name -> state, of the run of a flow."""
        runs = self.ask("task_runs", flows={"name": {"any_": [flow]}})
        return {run["name"]: run["state_name"] for run in runs}

    def deployment_id(self, flow: str, name: str) -> str:
        """Of the deployment of a flow."""
        return httpx.get(f"{self.url}/deployments/name/{flow}/{name}", timeout=30).json()["id"]

    def start(self, deployment_id: str, parameters: dict) -> None:
        """Start a deployment as its form in the UI does."""
        asked = f"{self.url}/deployments/{deployment_id}/create_flow_run"
        while (answer := httpx.post(asked, json={"parameters": parameters}, timeout=30)).status_code == 503:
            time.sleep(0.1)  # SQLite, busy with another run's states, refused to write
        assert answer.is_success, answer.text

    def edges(self, run_id: str) -> set[tuple[str, str]]:
        """What the UI draws of a flow run: the names of task runs with those that follow them.

        The server names a pair as often as the earlier one has others to follow it.
        """
        nodes = dict(httpx.get(f"{self.url}/flow_runs/{run_id}/graph-v2", timeout=30).json()["nodes"])
        return {(nodes[parent["id"]]["label"], node["label"]) for node in nodes.values() for parent in node["parents"]}

    def deployments(self) -> dict[tuple[str, str], dict]:
        """Entrypoint and preset -> what decides how the deployment runs."""
        fields = ("parameters", "pull_steps", "work_pool_name", "job_variables", "path", "parameter_openapi_schema",
                  "enforce_parameter_schema", "description")  # fmt: skip
        return {(d["entrypoint"], d["name"]): {name: d[name] for name in fields} for d in self.ask("deployments")}

"""The engine on a Ray cluster: two nodes' worth of workers, one of them killed in the middle."""

from __future__ import annotations

import importlib.util
import os
import signal
import threading
import time

import pytest

from nprobot.benchmark import Ray, bench, load, read
from nprobot.errors import MissingPackageError

INSTALLED = importlib.util.find_spec("ray") is not None


def test_without_ray_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingPackageError, match=r"nprobot\[ray\]"):
        Ray("auto")


if INSTALLED:

    @pytest.fixture
    def cluster():
        import ray
        from ray.cluster_utils import Cluster

        nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        nodes.add_node(num_cpus=1)
        yield nodes
        ray.shutdown()
        nodes.shutdown()

    @pytest.mark.slow
    def test_a_lost_worker_costs_no_run_and_doubles_none(cluster, tiny, tmp_path):
        suite = load(str(tiny(steps=20_000, seeds=2)))
        killed = []

        def kill_one():
            deadline = time.monotonic() + 300
            while not killed and time.monotonic() < deadline:
                if workers := busy_workers():
                    os.kill(workers[0], signal.SIGKILL)
                    killed.append(workers[0])
                time.sleep(0.1)

        killer = threading.Thread(target=kill_one)
        killer.start()
        ends = bench(suite, tmp_path / "out", Ray(cluster.address))
        killer.join()
        assert killed
        assert ends == {"done": len(suite.runs)}
        rows = read(tmp_path / "out")
        assert sorted(row["key"] for row in rows) == sorted(run.key for run in suite.runs)
        assert (tmp_path / "out" / "rows.jsonl").read_bytes().count(b"\n") == len(suite.runs)
        assert all(row["versions"]["torch"] for row in rows)

    def busy_workers():
        """Processes of Ray that do a run now: they call themselves after their task."""
        import psutil

        mine = psutil.Process().children(recursive=True)
        titles = {child.pid: " ".join(child.cmdline()) for child in mine if child.is_running()}
        return [pid for pid, title in titles.items() if title.startswith("ray::on_cluster")]

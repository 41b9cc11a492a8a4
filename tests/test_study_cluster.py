"""A study on a real Ray cluster of two nodes, one of which is killed midway."""

import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from latentcast.diffusion.gaussian import GaussianSource
from latentcast.diffusion.path import NoisePath
from latentcast.errors import ParameterError
from latentcast.study.recording.record import record
from latentcast.study.runner import cluster
from latentcast.study.runner.load import parse_study
from latentcast.study.runner.run import run_study

pytestmark = [
    pytest.mark.slow,
    # Ray leaves sockets and processes to the interpreter.
    pytest.mark.filterwarnings("default"),
]

STUDY = """
episodes = 512
policies = ["lookahead", "persistent-3", "final-only"]
[trajectories]
recording = "{recording}"
[link]
snr_db = [0, 5, 10]
[scenario]
num_steps = 10
deadline_slots = 14
"""


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    # A lost node is noticed within seconds.
    system = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500}
    nodes = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "_system_config": system, "object_store_memory": 100 * 2**20},
    )
    try:
        yield nodes, nodes.add_node(num_cpus=2, object_store_memory=100 * 2**20)
    finally:
        nodes.shutdown()


def test_a_killed_node_changes_nothing(tmp_path: Path, two_nodes: Any) -> None:
    source = GaussianSource((4, 8, 8), NoisePath.stable_diffusion(10))
    folder = record(source, ["a", "b", "c"], tmp_path / "recording", batch_size=3).folder
    config = parse_study(STUDY.replace("{recording}", str(folder)))
    nodes, second = two_nodes
    seen: list[int] = []

    def kill_midway(stage: str, done: int, total: int) -> None:
        if stage == "episodes":
            seen.append(done)
            if len(seen) == 4:  # three parts are finished
                nodes.remove_node(second, allow_graceful=False)

    on_cluster = run_study(config, tmp_path / "ray", ray=nodes.address, progress=kill_midway)
    alone = run_study(config, tmp_path / "alone", processes=1)
    assert len(seen) == 25
    assert len(nodes.list_all_nodes()) == 1
    name = "episodes.parquet"
    assert (on_cluster.folder / name).read_bytes() == (alone.folder / name).read_bytes()
    assert on_cluster.summary == alone.summary


def test_what_listens_but_is_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "TRIAL_SECONDS", 5.0)
    config = parse_study('fidelity = "model"\npolicies = ["lookahead"]\n[link]\nsnr_db = 0')
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(ParameterError, match=f"no Ray cluster at '{address}': no answer within 5 s"):
            run_study(config, tmp_path, ray=address)


def test_an_error_in_a_task_comes_back_as_it_is(tmp_path: Path, two_nodes: Any) -> None:
    source = GaussianSource((4, 8, 8), NoisePath.stable_diffusion(10))
    made = record(source, ["a", "b"], tmp_path / "recording", batch_size=2)
    chunk = made.folder / "samples" / "c.1.0.0.0.0"
    chunk.write_bytes(chunk.read_bytes()[:100])
    config = parse_study(STUDY.replace("{recording}", str(made.folder)))
    with warnings.catch_warnings(), pytest.raises(ParameterError, match=r"item 1 of .* is damaged"):
        run_study(config, tmp_path / "out", ray=two_nodes[0].address)

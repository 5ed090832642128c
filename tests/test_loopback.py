"""Workers of our own, and schedulers with TLS, take nobody who has not the certificate."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_checkpoint import outputs
from test_distributed import BASE, ROOT, until

from gpuvox.cli import main_randomise
from gpuvox.distributed import launch
from gpuvox.distributed.launch import DaskCluster, open_client
from tests.selection import few

distributed = pytest.importorskip("distributed", reason="Dask is not installed (gpuvox[distributed])")
pytest.importorskip("cryptography", reason="cryptography is not installed (gpuvox[distributed])")

INTRUDER = """
import os, sys
from distributed import Client, Security
if sys.argv[2] == "stranger":  # with a certificate of its own
    security, address = Security.temporary(), sys.argv[1]
else:
    security, address = None, sys.argv[1].replace("tls://", "tcp://")
try:
    print("ran as", Client(address, timeout=3, security=security).run_on_scheduler(os.getpid))
except Exception as error:
    print("refused:", type(error).__name__)
os._exit(0)
"""


def intrude(address: str, how: str) -> str:
    """What another process says that connects without the certificate."""
    command = [sys.executable, "-W", "ignore", "-c", INTRUDER, address, how]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300).stdout


def listening() -> set[int]:
    """Ports on which this process and its children listen."""
    psutil = pytest.importorskip("psutil")
    me = psutil.Process()
    found = set()
    for process in [me, *me.children(recursive=True)]:
        found |= {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    return found


@pytest.fixture(scope="module")
def own():
    """A cluster as of ``--workers 1``: its client, and the ports that were opened for it."""
    before, said = listening(), []
    with open_client(DaskCluster(n_workers=1, threads=1), said.append) as client:
        client.wait_for_workers(1)
        assert not said
        yield client, listening() - before


@pytest.mark.parametrize("how", few(["stranger", "plain"], 1))
def test_nobody_else_talks_to_workers_of_our_own(own, how):
    client, _ = own
    info = client.scheduler_info()
    worker = next(iter(info["workers"].values()))
    addresses = [client.scheduler.address, next(iter(info["workers"])), worker["nanny"]]
    for address in addresses:
        assert address.startswith("tls://127.0.0.1:")
        assert intrude(address, how).startswith("refused"), address
    assert client.submit(sum, [1, 2]).result() == 3


def test_nothing_but_the_encrypted_protocol_is_served(own):
    """Scheduler, worker and nanny listen, on a port each, and none of them answers to HTTP."""
    client, ports = own
    assert len(ports) == 3
    info = client.scheduler_info()
    assert not info["services"]
    assert not any(worker["services"] for worker in info["workers"].values())


def test_an_open_cluster_would_be_found_out(tmp_path):
    """What the test above counts on: without TLS the same stranger gets in."""
    command = [sys.executable, "-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard",
               "--scheduler-file", str(tmp_path / "s.json")]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until((tmp_path / "s.json").exists)
        address = re.search(r"tcp://[\d.:]+", (tmp_path / "s.json").read_text())[0]
        assert intrude(address, "plain").strip() == f"ran as {process.pid}"
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def encrypted(tmp_path_factory):
    """A scheduler with TLS and a worker; its file, and the options of a certificate."""
    folder = tmp_path_factory.mktemp("tls")
    made = distributed.Security.temporary()
    (folder / "cert.pem").write_text(made.tls_client_cert)
    (folder / "key.pem").write_text(made.tls_client_key)
    options = ["--tls-ca-file", "cert.pem", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]
    options = [str(folder / word) if word.endswith("pem") else word for word in options]
    file = folder / "scheduler.json"
    common = ["--scheduler-file", str(file), "--no-dashboard", *options]
    run = [sys.executable, "-m", "dask"]
    settings = {"env": os.environ | {"PYTHONPATH": str(ROOT)}, "stdout": subprocess.DEVNULL}
    processes = [
        subprocess.Popen([*run, "scheduler", "--host", "127.0.0.1", "--port", "0", "--protocol", "tls", *common],
                         stderr=subprocess.DEVNULL, **settings)
    ]  # fmt: skip
    until(file.exists)
    processes.append(
        subprocess.Popen([*run, "worker", "--no-nanny", *common], stderr=subprocess.DEVNULL, **settings)
    )
    yield file, options
    for process in reversed(processes):
        process.kill()
        process.wait()


def test_a_run_on_a_scheduler_that_encrypts(study, encrypted, capfd):
    file, options = encrypted
    address = re.search(r"tls://([\d.:]+)", file.read_text())
    assert main_randomise([*BASE.split(), "-x"]) == 0
    expected = outputs(study)
    for cluster in (
        ["--scheduler-file", str(file)], ["--scheduler", address[0]], ["--scheduler", address[1]],
    ):  # fmt: skip
        assert main_randomise([*BASE.split(), "-x", *cluster, *options]) == 0
        assert outputs(study) == expected
    assert "encrypted" not in capfd.readouterr().err


def test_a_scheduler_that_encrypts_refuses_whoever_has_no_certificate(study, encrypted, capfd, monkeypatch):
    import dask

    file, _ = encrypted
    with dask.config.set({"distributed.comm.timeouts.connect": "2s"}):
        assert main_randomise([*BASE.split(), "-x", "--scheduler-file", str(file)]) == 2
    assert "no Dask scheduler answers" in capfd.readouterr().err
    assert not list(study.glob("out*.nii.gz"))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--scheduler tcp://127.0.0.1:1 --tls-ca-file design.mat --tls-cert design.mat", "does not encrypt"),
        ("--scheduler tls://127.0.0.1:1 --tls-ca-file none.pem --tls-cert design.mat", "none.pem cannot be read"),
        ("--scheduler tls://127.0.0.1:1 --tls-cert design.mat", "--tls-ca-file is missing"),
        ("--scheduler tls://127.0.0.1:1 --tls-key design.mat", "--tls-ca-file is missing"),
        ("--workers 2 --tls-ca-file design.mat --tls-cert design.mat", "--workers encrypts by itself"),
        ("--tls-ca-file design.mat --tls-cert design.mat", "is for --scheduler"),
    ],
)
def test_certificates_that_do_not_fit(study, capsys, words, said):
    assert main_randomise([*BASE.split(), "-x", *words.split()]) == 2
    assert said in capsys.readouterr().err
    assert not list(Path(study).glob("out*.nii.gz"))


def test_without_cryptography_one_sentence(study, capsys, monkeypatch):
    monkeypatch.setattr(launch, "find_spec", lambda name: None if name == "cryptography" else True)
    assert main_randomise([*BASE.split(), "-x", "--workers", "2"]) == 2
    assert "cryptography" in capsys.readouterr().err

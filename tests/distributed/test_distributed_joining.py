"""Which Ray a config asks for, and what is said where that one cannot be had."""

import re
import socket
import threading

import pytest

from rayloom.core.errors import UserError
from rayloom.distributed.cluster import start_ray
from rayloom.distributed.joining import TooLargeError, check_address, look_at, refuse_too_large


@pytest.mark.parametrize("port", ["0x50", "70000", "-1", "6379 ", "６３７９", ""])
def test_a_port_is_a_number_below_65536(port):
    with pytest.raises(UserError, match="give host:port, such as"):
        check_address(f"127.0.0.1:{port}")


def test_a_driver_that_is_connected_cannot_be_asked_to_use_another_ray(ray_cluster):
    """It would train on the Ray that it has, whatever `resources.address` says."""
    port = ray_cluster.address.rpartition(":")[2]
    for same in (None, "auto", "local", ray_cluster.address, f"localhost:{port}"):
        check_address(same)
    said = f"is connected to the Ray at {re.escape(ray_cluster.address)} already"
    for other in ("127.0.0.1:9", f"192.0.2.7:{port}", f"nowhere.invalid:{port}"):
        with pytest.raises(UserError, match=said):
            check_address(other)
    with pytest.raises(UserError, match="'nowhere': give host:port"):
        check_address("nowhere")


def test_nor_does_a_ray_for_a_block_become_another_one(ray_cluster):
    with start_ray(ray_cluster.address) as here:
        assert here.address == ray_cluster.address
    said = "is connected to the Ray at"
    with pytest.raises(UserError, match=said), start_ray("127.0.0.1:9"):
        pytest.fail("the Ray that is connected was used in the place of the one asked for")


def test_workers_of_a_cluster_use_theirs(ray_cluster):
    import ray

    assert ray.get(ray.remote(check_address).options(num_cpus=0).remote("127.0.0.1:9")) is None


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-2.0-x\r\n", b""])
def test_what_listens_but_is_no_ray_is_told_at_once(answer):
    """Ray's client would try for a minute and then end this process."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve():
            line, _ = server.accept()
            with line:
                line.recv(100)
                line.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(UserError, match="what listens there is no Ray"):
            look_at(f"127.0.0.1:{server.getsockname()[1]}")


def test_a_heads_nodes_are_read_without_joining_it(ray_cluster):
    nodes = look_at(ray_cluster.address)
    assert [node["CPU"] for node in nodes] == [4.0]
    refuse_too_large(nodes, [{"CPU": 1.0}] * 4, ray_cluster.address)
    with pytest.raises(TooLargeError, match=r"needs 5 CPUs, in pieces of up to 1 CPU .* has 4 CPU"):
        refuse_too_large(nodes, [{"CPU": 1.0}] * 5, ray_cluster.address)

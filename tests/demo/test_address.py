"""Addresses: free, in use by a process that is named, and impossible."""

import os
import socket

import pytest

from slimsweep.demo.address import refuse_address
from slimsweep.errors import DemoError


@pytest.fixture
def taken():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_port_in_use_is_refused_with_its_process_and_a_free_one(taken):
    with pytest.raises(DemoError) as caught:
        refuse_address("127.0.0.1", taken)
    said = str(caught.value)
    assert f"port {taken} of 127.0.0.1 is in use by " in said and f"(process {os.getpid()})" in said
    other = int(said.rpartition("--port ")[2])
    assert other > taken
    refuse_address("127.0.0.1", other)


def test_a_process_that_may_not_be_seen_is_not_named(taken, monkeypatch):
    import psutil

    def refuse(kind):
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", refuse)
    with pytest.raises(DemoError, match=f"port {taken} of 127.0.0.1 is in use: give another, such as --port"):
        refuse_address("127.0.0.1", taken)


def test_a_port_is_free_again_once_its_server_ended(taken):
    with pytest.raises(DemoError):
        refuse_address("127.0.0.1", taken)
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        free = server.getsockname()[1]
    refuse_address("127.0.0.1", free)


@pytest.mark.parametrize(
    ("host", "says"), [("no such host", "is no name of this machine"), ("192.0.2.1", "Give --host")]
)
def test_a_host_that_is_not_here_is_refused(host, says):
    with pytest.raises(DemoError, match=says):
        refuse_address(host, 7860)


def test_a_port_of_the_system_is_refused_for_want_of_rights(monkeypatch):
    def refuse(host, port):
        raise PermissionError

    monkeypatch.setattr("slimsweep.demo.address._bind", refuse)
    with pytest.raises(DemoError, match="port 80 needs rights"):
        refuse_address("127.0.0.1", 80)

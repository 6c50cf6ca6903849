"""Address that a page is served at: checked before anything is loaded."""

import errno
import socket

from slimsweep.errors import DemoError

PORTS_TRIED = 100
"""Further ports that are tried to suggest a free one."""


def refuse_address(host: str, port: int) -> None:
    """Raise DemoError where nothing can be served at a port of a host, with the reason and what would work."""
    try:
        _bind(host, port)
    except socket.gaierror as error:
        raise DemoError(
            f"--host {host} is no name of this machine. Give 127.0.0.1 for this machine alone, or 0.0.0.0 for all that "
            "reach it"
        ) from error
    except PermissionError as error:
        raise DemoError(
            f"port {port} needs rights of an administrator: give one of 1024 to 65535, --port 7860"
        ) from error
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise DemoError(f"--host {host} cannot be served at: {error.strerror}. Give --host 127.0.0.1") from error
        free = _free(host, port)
        other = f": give another, such as --port {free}" if free else ": give another --port"
        raise DemoError(f"port {port} of {host} is in use{_user(port)}{other}") from error


def _bind(host: str, port: int) -> None:
    """Take a port and leave it again, as servers do: one that was left a moment ago is free."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)


def _free(host: str, port: int) -> int | None:
    """The next free port; None where none is near."""
    for other in range(port + 1, min(port + PORTS_TRIED, 65535) + 1):
        try:
            _bind(host, other)
        except OSError:
            continue
        return other
    return None


def _user(port: int) -> str:
    """Name and number of the process that listens at a port; empty where this user may not see it."""
    import psutil

    try:
        for one in psutil.net_connections(kind="tcp"):
            if one.status == psutil.CONN_LISTEN and one.laddr.port == port and one.pid:
                return f" by {psutil.Process(one.pid).name()} (process {one.pid})"
    except psutil.Error:
        return ""
    return ""

"""Waiting for the other processes of a cluster, with an end: TensorFlow waits for them without one."""

import contextlib
import socket
import time
from collections.abc import Iterator

from kopt.core.errors import ConfigError, WorkerLostError

_RETRY_S = 0.2


def wait_for_peers(own: str, peers: tuple[str, ...], timeout_s: float) -> None:
    """Return when every peer can be connected to; meanwhile let them connect to this process' address.

    Nothing is sent: being there is the message. A peer that finds this process later finds TensorFlow's server at the
    same address, which is started right after.

    Args:
        own: `host:port` of this process.
        peers: those of the others.
        timeout_s: seconds to wait for all of them together.

    Raises:
        ConfigError: the own port is taken.
        WorkerLostError: names the peers that did not appear.
    """
    deadline = time.monotonic() + timeout_s
    with _listening(int(own.rpartition(":")[2])):
        missing = [peer for peer in peers if not _reachable(peer)]
        while missing:
            if time.monotonic() > deadline:
                raise WorkerLostError(
                    f"{len(missing)} of {len(peers) + 1} processes did not appear within {timeout_s:g} seconds: "
                    f"{', '.join(missing)}. Start the same program on every address of TF_CONFIG and check that the "
                    f"ports can be reached from here."
                )
            time.sleep(_RETRY_S)
            missing = [peer for peer in missing if not _reachable(peer)]


@contextlib.contextmanager
def _listening(port: int) -> Iterator[None]:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    try:
        server = socket.create_server(("", port), family=family, dualstack_ipv6=family == socket.AF_INET6, backlog=1024)
    except OSError as error:
        raise ConfigError(
            f"TF_CONFIG gives this process the port {port}, which is taken ({error}). End the process that holds it "
            f"(one of an earlier run?) or choose another port in the TF_CONFIG of all processes."
        ) from error
    with server:
        yield


def _reachable(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=1.0):
            return True
    except OSError:
        return False

"""Free ports of this machine's loopback, away from those the system hands to outgoing connections."""

import secrets
import socket

from infra.errors import ResourceError

# Linux takes the ports of outgoing connections from 32768 up. Single ports and blocks have ranges of their own, so
# that a server never takes a port out of another's block.
_SINGLE = range(20000, 32000)
_BLOCKS = range(11000, 20000)


def free_port() -> int:
    """Find one port that nobody listens on. Raises ResourceError where none is found."""
    for _ in range(100):
        port = secrets.choice(_SINGLE)
        if is_free(port):
            return port
    raise ResourceError(f"no free port between {_SINGLE.start} and {_SINGLE.stop} on 127.0.0.1")


def port_block(size: int) -> int:
    """Draw the first of ``size`` neighbouring ports for a server that copes with a few of them being taken."""
    starts = range(_BLOCKS.start, _BLOCKS.stop - size + 1, size)
    if not starts:
        raise ResourceError(f"{size} neighbouring ports are wanted, {len(_BLOCKS)} are kept for blocks: ask for fewer")
    return secrets.choice(starts)


def is_free(port: int) -> bool:
    """Say whether a server could listen on a port of 127.0.0.1; connections that just ended do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

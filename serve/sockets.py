"""Where the service listens. Whoever may be reached from other machines wants a secret of those who call."""

from __future__ import annotations

import ipaddress
import socket

from engine.errors import RetainError

BACKLOG = 2048
Names = tuple[str, str]  # the settings of the address and of the port


def listen(names: Names, host: str, port: int, lacking: str | None) -> socket.socket:
    """A socket that listens there. `lacking`: the setting of who may call, if it isn't set; then nobody but programs of
    this machine can. Raises RetainError.

    Bound here, before a server does it, so that a port in use is one line like every other bad setting.
    """
    where = f"{names[0]}={host}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        if lacking and not ipaddress.ip_address(address[0]).is_loopback:
            raise RetainError(
                f"{where}: can be called from other machines, so {lacking} has to be set; without it the "
                "service listens at 127.0.0.1, ::1 or localhost only"
            )
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(BACKLOG)
    except UnicodeError:  # what getaddrinfo raises for a name with an empty part, a long one or a forbidden letter
        raise RetainError(f"{names[0]}={host!r}: is no name of a host, nor an address") from None
    except OSError as error:
        raise RetainError(f"{where} {names[1]}={port}: can't listen there ({error.strerror})") from None
    return listening


def url(listening: socket.socket) -> str:
    """The address of a listening socket, for a person."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

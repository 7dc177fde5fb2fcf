"""What the processes of a session listen on, and what of that tells metrics to anyone."""

import os
import socket
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

Place = tuple[str, int]


def listening(session: int) -> set[Place]:
    """The addresses and TCP ports on which the processes of a session listen."""
    inodes = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(process.name)) == session:
                inodes |= {os.readlink(each) for each in (process / "fd").iterdir()}
        except OSError:  # it has ended, or is another user's
            continue
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in inodes:
                address, port = local.split(":")  # 0.0.0.0 is this machine
                found.add((socket.inet_ntoa(bytes.fromhex(address[-8:])[::-1]), int(port, 16)))
    return found


def metrics(places: Collection[Place]) -> list[Place]:
    """Which of these answer a scraper of metrics without the token."""
    answered = []
    for place in places:
        with suppress(ConnectionError), socket.create_connection(place, timeout=10) as server:  # its process may end
            server.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            if b" 200 " in server.recv(16):
                answered.append(place)
    return answered

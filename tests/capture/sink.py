"""What receives TCP in the peer."""

from __future__ import annotations

import contextlib
import select
import socket
import threading


class Sink:
    """A TCP server that reads what comes, in one thread."""

    def __init__(self, at: str, port: int, answer: int, half: bool) -> None:
        self._at, self._port, self._answer, self._half = at, port, answer, half
        self.ready = threading.Event()
        self._wake = socket.socketpair()

    def serve(self) -> None:
        """Serve until stopped."""
        family = socket.AF_INET6 if ":" in self._at else socket.AF_INET
        with socket.create_server((self._at, self._port), family=family, backlog=4096) as server:
            server.setblocking(False)
            self.ready.set()
            links: dict[int, socket.socket] = {}
            poll = select.epoll()
            poll.register(server, select.EPOLLIN)
            poll.register(self._wake[0], select.EPOLLIN)
            try:
                while True:
                    for number, _event in poll.poll():
                        if number == self._wake[0].fileno():
                            return
                        if number == server.fileno():
                            self._accept(server, poll, links)
                        else:
                            self._read(links, number)
            finally:
                for link in links.values():
                    link.close()
                poll.close()

    def _accept(self, server: socket.socket, poll: select.epoll, links: dict[int, socket.socket]) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                link = server.accept()[0]
                if self._half:
                    link.recv(100)
                    link.shutdown(socket.SHUT_WR)
                links[link.fileno()] = link
                poll.register(link, select.EPOLLIN)

    def _read(self, links: dict[int, socket.socket], number: int) -> None:
        try:
            got = links[number].recv(1 << 18)
        except ConnectionError:
            got = b""
        if not got:
            with contextlib.suppress(ConnectionError):
                links[number].sendall(bytes(self._answer))
            links.pop(number).close()

    def stop(self) -> None:
        """Ask it to end."""
        self._wake[1].send(b"x")

    def close(self) -> None:
        """Give back what it held."""
        for end in self._wake:
            end.close()

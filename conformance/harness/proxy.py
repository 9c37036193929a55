"""A way to a server that can be cut, closed and opened again, with TLS in front of it if wanted."""

import socket
import threading


class Proxy:
    """Carries bytes between whoever connects and a server. `tls` is a context that speaks TLS to those who connect."""

    def __init__(self, t, host, port, tls=None):
        self._target = (host, port)
        self._tls = tls
        self._pairs = set()
        self._lock = threading.Lock()
        self._open = True
        #: Connections so far.
        self.connects = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        t.defer(self.close)
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self):
        """Breaks every connection."""
        with self._lock:
            pairs, self._pairs = self._pairs, set()
        for pair in pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # It was over already.
                end.close()

    def shut(self):
        """Breaks every connection, and lets nobody through."""
        self._open = False
        self.cut()

    def reopen(self):
        """Lets those who come through again."""
        self._open = True

    def close(self):
        """Ends it."""
        self._open = False
        self._listener.close()
        self.cut()

    def _accept(self):
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client):
        if not self._open:
            client.close()
            return
        try:
            if self._tls:
                client = self._tls.wrap_socket(client, server_side=True)
            server = socket.create_connection(self._target)
        except OSError:
            client.close()
            return
        self.connects += 1
        with self._lock:
            self._pairs.add((client, server))
        threading.Thread(target=_carry, args=(client, server), daemon=True).start()
        _carry(server, client)


def _carry(source, sink):
    try:
        while True:
            data = source.recv(65536)
            if not data:
                break
            sink.sendall(data)
    except OSError:
        pass  # Cut.
    try:
        sink.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # Cut.

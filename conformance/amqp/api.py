"""The management API as a client of plain HTTP."""

import base64
import json
import urllib.error
import urllib.parse
import urllib.request

from harness.suite import equal

#: Seconds that a request may take.
PATIENCE = 20


class Api:
    """Requests to the API of a server."""

    def __init__(self, address, user="guest", password="guest", scheme="http", context=None):
        self.address = address
        self.user = user
        self.password = password
        self.scheme = scheme
        self.context = context

    def ask(self, method, path, body=None, **headers):
        """Status, headers and the decoded body."""
        request = urllib.request.Request(f"{self.scheme}://{self.address}/api{path}", method=method)
        if self.user is not None:
            pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
            request.add_header("Authorization", f"Basic {pair}")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        data = None
        if body is not None:
            request.add_header("Content-Type", "application/json")
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            with urllib.request.urlopen(request, data, timeout=PATIENCE, context=self.context) as answer:
                status, got, text = answer.status, answer.headers, answer.read()
        except urllib.error.HTTPError as error:
            status, got, text = error.code, error.headers, error.read()
        if "json" in (got.get("Content-Type") or ""):
            return status, got, json.loads(text)
        return status, got, text

    def get(self, path):
        """The body of a GET that succeeds."""
        status, _, body = self.ask("GET", path)
        equal(status, 200, f"GET {path}: {body}")
        return body

    def do(self, expected, method, path, body=None, **headers):
        """A request that is answered with this status; its body."""
        status, _, answer = self.ask(method, path, body, **headers)
        equal(status, expected, f"{method} {path}: {answer}")
        return answer


def api(t, *who):
    """The server's API."""
    return Api(t.websocket, *who)


def quoted(name):
    """A segment of a path."""
    return urllib.parse.quote(name, safe="")

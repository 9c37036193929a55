"""Logging in to the management API with a form, and asking with the cookie: cases of the suite `amqp-management`."""

import http.cookies
import ssl
import urllib.error
import urllib.parse
import urllib.request

from api import PATIENCE, Api, api
from harness.certificate import certify
from harness.server import OwnServer
from harness.suite import case, equal


def log_in(at, user, password, kind="application/x-www-form-urlencoded", **headers):
    """Status, body and cookie of a login."""
    form = urllib.parse.urlencode({"username": user, "password": password}).encode()
    asked = urllib.request.Request(f"{at.scheme}://{at.address}/api/login", form, {"Content-Type": kind, **headers})
    try:
        with urllib.request.urlopen(asked, timeout=PATIENCE, context=at.context) as answer:
            status, got, text = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        status, got, text = error.code, error.headers, error.read()
    cookies = http.cookies.SimpleCookie(got.get("Set-Cookie") or "")
    return status, text, cookies.get("auth")


@case("login")
def a_login_gives_a_cookie_that_stands_for_name_and_password(t):
    name = t.unique()
    user = {"password": "päss&word=1", "tags": "management"}
    api(t).do(201, "PUT", f"/users/{name}", user)
    t.defer(lambda: api(t).ask("DELETE", f"/users/{name}"))
    bare = Api(t.websocket, None)
    status, text, cookie = log_in(bare, name, user["password"])
    equal((status, text), (200, b'"ok"'))
    equal((cookie["httponly"], cookie["samesite"], cookie["path"], cookie["secure"]), (True, "Strict", "/", ""))
    assert int(cookie["max-age"]) > 0 and name not in cookie.value, cookie
    held = {"Cookie": f"m=1; auth={cookie.value}"}
    equal(bare.do(200, "GET", "/whoami", **held)["name"], name)
    # Its rights are those of the user, as they are now.
    bare.do(401, "GET", "/users", **held)
    api(t).do(204, "PUT", f"/users/{name}", {**user, "tags": "administrator"})
    bare.do(401, "GET", "/whoami", **held)
    # The password was set anew: the hash is another one, and so the session is over.
    _, _, cookie = log_in(bare, name, user["password"])
    held = {"Cookie": f"auth={cookie.value}"}
    bare.do(200, "GET", "/users", **held)
    # Name and password go before the cookie.
    equal(Api(t.websocket, name, "wrong").ask("GET", "/whoami", **held)[0], 401)
    # Pages of other sites cannot use it.
    bare.do(403, "DELETE", f"/users/{name}", **held, Origin="http://elsewhere.example")
    api(t).do(204, "DELETE", f"/users/{name}")
    bare.do(401, "GET", "/whoami", **held)


@case("login errors")
def a_login_is_refused_as_any_request(t):
    bare = Api(t.websocket, None)
    name = t.unique()
    api(t).do(201, "PUT", f"/users/{name}", {"password": "secret", "tags": ""})
    t.defer(lambda: api(t).ask("DELETE", f"/users/{name}"))
    for user, password in ((name, "wrong"), (name, "secret"), ("guest", "")):
        status, text, cookie = log_in(bare, user, password)
        equal((status, cookie), (401, None), text)
    equal(log_in(bare, "guest", "guest", "application/json")[0], 415)
    equal(log_in(bare, "guest", "guest", Origin="http://elsewhere.example")[0], 403)
    equal(log_in(bare, "guest", "x" * 20_000)[0], 413)
    # This machine's guest is let in where it has asked for this machine.
    equal(log_in(bare, "guest", "guest", Host="elsewhere.example")[0], 401)
    equal(bare.ask("GET", "/login")[0], 405)
    bare.do(401, "GET", "/whoami", Cookie="auth=Z3Vlc3Q6Z3Vlc3Q")
    bare.do(401, "GET", "/whoami", Cookie="auth=")
    status, _, cookie = log_in(bare, "guest", "guest")
    equal(status, 200)
    held = {"Cookie": f"auth={cookie.value}"}
    equal(bare.do(200, "GET", "/whoami", **held)["name"], "guest")
    bare.do(401, "GET", "/whoami", **held, Host="elsewhere.example")


@case("login https")
def a_login_over_tls_gives_a_cookie_for_tls_only(t):
    key, certificate = certify(t)
    off = "".join(f"{name} = []\n" for name in ("beanstalk", "mqtt", "mqtt-ws", "mqtt-http", "amqp-metrics"))
    config = (
        f'admin.listen = "off"\n[listeners]\n{off}[[listeners.amqp-management]]\naddress = "127.0.0.1:{{ws}}"\n'
        f'tls = {{ certificate = "{certificate}", key = "{key}" }}\n'
    )
    words = [word for word in (t.start or {}).get("words", []) if word != "--only"]
    at = [place for place, word in enumerate(words) if word.startswith("amqp-management=")]
    words = [word for place, word in enumerate(words) if place not in at and place + 1 not in at]
    server = OwnServer(t, start=t.start and {**t.start, "config": config, "words": [*words, "--config", "{config}"]})
    context = ssl.create_default_context(cafile=certificate)
    secure = Api(server.websocket.replace("127.0.0.1", "localhost"), None, scheme="https", context=context)
    status, text, cookie = log_in(secure, "guest", "guest")
    equal((status, text, cookie["secure"]), (200, b'"ok"', True))
    overview = secure.do(200, "GET", "/overview", Cookie=f"auth={cookie.value}")
    port = int(server.websocket.rsplit(":", 1)[1])
    [listener] = [known for known in overview["listeners"] if known["port"] == port]
    equal((listener["protocol"], listener["tls"]), ("https", True))

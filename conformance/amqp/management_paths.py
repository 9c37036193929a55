"""Paths that few tools ask for: cases of the suite `amqp-management`."""

import base64
import hashlib
import urllib.request

from api import PATIENCE, Api, api, quoted
from harness.suite import case, equal, eventually


def is_hash_of(text, password):
    """Whether it is what RabbitMQ makes of a password."""
    octets = base64.b64decode(text)
    return octets[4:] == hashlib.sha256(octets[:4] + password.encode()).digest()


@case("auth hash_password attempts")
def passwords_are_hashed_as_either_broker_is_asked_for_it(t):
    assert is_hash_of(api(t).get("/auth/hash_password/secret")["ok"], "secret")
    answer = api(t).do(200, "PUT", "/auth/hash_password", {"password": "päss"})
    assert is_hash_of(answer["password_hash"], "päss"), answer
    equal(api(t).do(400, "PUT", "/auth/hash_password", {})["error"], "key_missing")
    # What comes out goes in.
    name = t.unique()
    api(t).do(201, "PUT", f"/users/{name}", {"password_hash": answer["password_hash"], "tags": "management"})
    t.defer(lambda: api(t).ask("DELETE", f"/users/{name}"))
    equal(Api(t.websocket, name, "päss").get("/whoami")["name"], name)
    node = api(t).get("/overview")["node"]
    for path in (f"/auth/attempts/{node}", f"/auth/attempts/{node}/source", "/top", f"/top/{node}", "/traces",
                 "/stream/connections", "/stream/publishers/%2F", "/deprecated-features/used"):
        equal(api(t).get(path), [], path)
    equal(Api(t.websocket, name, "päss").ask("GET", f"/auth/attempts/{node}")[0], 401)
    for path in (f"/nodes/{node}/memory", f"/nodes/{node}/memory/relative"):
        equal(api(t).get(path), {"memory": "not_available"})
    equal(api(t).ask("GET", "/nodes/elsewhere/memory/relative")[0], 404)


@case("definitions upload")
def definitions_are_uploaded_as_a_form(t):
    at, queue = t.unique(), t.unique()
    api(t).do(201, "PUT", f"/vhosts/{at}", {})
    t.defer(lambda: api(t).ask("DELETE", f"/vhosts/{at}"))

    def form(text):
        return (b'--edge\r\nContent-Disposition: form-data; name="file"; filename="d.json"\r\n'
                b"Content-Type: application/json\r\n\r\n" + text.encode() + b"\r\n--edge--\r\n")

    one = f'{{"queues": [{{"name": "{queue}", "durable": true, "auto_delete": false, "arguments": {{}}}}]}}'
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    for path in (f"/definitions/{at}/upload", f"/definitions/{at}"):
        status, _, answer = upload(t, path, form(one), headers)
        equal(status, 204, answer)
        equal(api(t).get(f"/queues/{at}/{quoted(queue)}")["durable"], True)
        api(t).do(204, "DELETE", f"/queues/{at}/{quoted(queue)}")
    everywhere = one.replace('"name"', f'"vhost": "{at}", "name"')
    equal(upload(t, "/definitions/upload", form(everywhere), headers)[0], 204)
    equal(api(t).get(f"/queues/{at}/{quoted(queue)}")["durable"], True)


def upload(t, path, body, headers):
    """A form by POST."""
    pair = base64.b64encode(b"guest:guest").decode()
    asked = urllib.request.Request(f"http://{t.websocket}/api{path}", body, {
        "Authorization": f"Basic {pair}", **headers})
    with urllib.request.urlopen(asked, timeout=PATIENCE) as answer:
        return answer.status, answer.headers, answer.read()


@case("federation-links state")
def links_are_listed_by_state(t):
    name = t.unique()
    parameter = f"/parameters/federation-upstream/%2F/{name}"
    api(t).do(201, "PUT", parameter, {"value": {"uri": "amqp://127.0.0.1:1", "reconnect-delay": 1}})
    t.defer(lambda: api(t).ask("DELETE", parameter))
    for path in ("/federation-links", "/federation-links/%2F", "/federation-links/state/down",
                 "/federation-links/%2F/state/down", "/federation-links/%2F/running"):
        equal(api(t).get(path), [], path)
    equal(api(t).ask("GET", "/federation-links/nowhere/state/down")[0], 404)
    exchange = f"/exchanges/%2F/{name}"
    api(t).do(201, "PUT", exchange, {"type": "fanout"})
    t.defer(lambda: api(t).ask("DELETE", exchange))
    policy = f"/policies/%2F/{name}"
    body = {"pattern": f"^{name}$", "definition": {"federation-upstream": name}, "apply-to": "exchanges"}
    api(t).do(201, "PUT", policy, body)
    t.defer(lambda: api(t).ask("DELETE", policy))
    for path in ("/federation-links/state/down", "/federation-links/%2F/state/down", "/federation-links/%2F/down"):
        [link] = eventually(lambda path=path: api(t).get(path), "nobody is there")
        equal((link["exchange"], link["upstream"], link["status"]), (name, name, "error"))
    restart = f"/federation-links/vhost/%2F/{quoted(link['id'])}"
    equal(api(t).ask("DELETE", f"{restart}/elsewhere/restart")[0], 404)
    equal(api(t).ask("DELETE", f"/federation-links/vhost/%2F/nothing/{link['node']}/restart")[0], 404)
    equal(api(t).ask("GET", f"{restart}/{link['node']}/restart")[0], 405)
    api(t).do(204, "DELETE", f"{restart}/{link['node']}/restart")
    [again] = eventually(lambda: api(t).get("/federation-links/%2F/down"), "it is tried again")
    equal(again["id"], link["id"])


@case("users bcrypt definitions")
def users_of_lavinmq_keep_their_passwords(t):
    name = t.unique()
    # Of "secret", by crypt(3).
    text = "$2a$04$abcdefghijklmnopqrstuu2r9OfJnfCsdneAXAGHnS4UpFFP8WIrW"
    one = {"name": name, "password_hash": text, "hashing_algorithm": "lavinmq_bcrypt", "tags": "management"}
    t.defer(lambda: api(t).ask("DELETE", f"/users/{name}"))
    api(t).do(204, "POST", "/definitions", {"users": [one]})
    equal(Api(t.websocket, name, "secret").get("/whoami")["name"], name)
    equal(Api(t.websocket, name, "other").ask("GET", "/whoami")[0], 401)
    [known] = [known for known in api(t).get("/definitions")["users"] if known["name"] == name]
    equal((known["password_hash"], known["hashing_algorithm"]), (text, "lavinmq_bcrypt"))
    for wrong in (text[:-1], text.replace("$04$", "$20$"), "x"):
        answer = api(t).do(400, "PUT", f"/users/{name}", {**one, "password_hash": wrong})
        equal(answer["reason"], "invalid password_hash")
    # A password that is set anew is hashed as RabbitMQ does.
    api(t).do(204, "PUT", f"/users/{name}", {"password": "new", "tags": "management"})
    equal(api(t).get(f"/users/{name}")["hashing_algorithm"], "rabbit_password_hashing_sha256")

"""The command line of scripts for RabbitMQ and LavinMQ: cases of the suite `amqp-management`.

It is the server's own binary, as `longtail rabbitmqctl` and under the other names.
"""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

import pika
from api import PATIENCE, Api, api, quoted
from harness.ports import free_port
from harness.suite import Skip, case, equal, eventually
from pika.exceptions import ConnectionClosedByBroker

#: The exit codes of sysexits, as rabbitmqctl uses them.
USAGE, DATA, NO_USER, UNAVAILABLE, SOFTWARE = 64, 65, 67, 69, 70


def binary(t):
    """The server's program."""
    words = (t.start or {"words": [""]})["words"]
    if pathlib.Path(words[0]).name != "longtail":
        raise Skip("needs --start, to know the program")
    return pathlib.Path(words[0]).resolve()


class Ctl:
    """The command line, under a name or as a subcommand."""

    def __init__(self, t, name=None):
        self.words = [str(binary(t)), "rabbitmqctl"]
        if name:
            home = pathlib.Path(tempfile.mkdtemp(prefix="longtail-conformance-"))
            t.defer(lambda: shutil.rmtree(home, ignore_errors=True))
            (home / name).symlink_to(binary(t))
            self.words = [str(home / name)]
        self.environment = {**os.environ, "LONGTAIL_MANAGEMENT_URL": f"http://{t.websocket}"}

    def run(self, *words, given=""):
        """Exit code, standard output, standard error."""
        done = subprocess.run([*self.words, *words], input=given, env=self.environment, text=True,
                              capture_output=True, timeout=PATIENCE, check=False)
        return done.returncode, done.stdout, done.stderr

    def ok(self, *words, given=""):
        """Standard output of what succeeds."""
        code, out, error = self.run(*words, given=given)
        equal((code, error), (0, ""), " ".join(words))
        return out

    def fails(self, code, *words, given=""):
        """Standard error of what fails with a code."""
        got, out, error = self.run(*words, given=given)
        equal(got, code, f"{' '.join(words)}: {out}{error}")
        assert error.startswith("Error: "), error
        return error

    def rows(self, *words):
        """What a list has, without its head."""
        return [line.split("\t") for line in self.ok("-s", *words).splitlines()]

    def json(self, *words):
        """What a list has, as JSON."""
        return json.loads(self.ok(*words, "--formatter", "json"))


def vhost(t):
    """A vhost for a case."""
    name = t.unique()
    api(t).do(201, "PUT", f"/vhosts/{name}", {})
    t.defer(lambda: api(t).ask("DELETE", f"/vhosts/{name}"))
    return name


@case("rabbitmqctl users permissions")
def users_and_what_they_may_do(t):
    at, name = vhost(t), t.unique()
    t.defer(lambda: api(t).ask("DELETE", f"/users/{name}"))
    for ctl in (Ctl(t), Ctl(t, "rabbitmqctl"), Ctl(t, "lavinmqctl")):
        assert ctl.ok("add_user", name, "päss").startswith(f'Adding user "{name}" ...\n')
        assert "already exists" in ctl.fails(SOFTWARE, "add_user", name, "other")
        equal(ctl.ok("authenticate_user", name, given="päss\n").splitlines()[-1], "Success")
        ctl.fails(DATA, "authenticate_user", name, "wrong")
        equal(ctl.ok("-q", "set_user_tags", name, "management", "monitoring"), "")
        ctl.ok("change_password", name, "other")
        # What is not said stays.
        assert [name, "[management, monitoring]"] in ctl.rows("list_users")
        equal(Api(t.websocket, name, "other").get("/whoami")["name"], name)

        ctl.ok("set_permissions", "-p", at, name, "", "^jobs", ".*")
        equal(ctl.ok("list_user_permissions", name),
              f'Listing permissions for user "{name}" ...\nvhost\tconfigure\twrite\tread\n{at}\t\t^jobs\t.*\n')
        assert [name, "", "^jobs", ".*"] in ctl.rows("list_permissions", "-p", at)
        ctl.ok("set_topic_permissions", "-p", at, name, "amq.topic", "^a", ".")
        equal(ctl.rows("list_topic_permissions", "-p", at), [[name, "amq.topic", "^a", "."]])
        ctl.ok("clear_topic_permissions", "-p", at, name, "amq.topic")
        equal(ctl.rows("list_topic_permissions", "-p", at), [])
        ctl.ok("clear_permissions", "-p", at, name)
        equal(ctl.rows("list_user_permissions", name), [])

        ctl.ok("set_user_limits", name, '{"max-connections": 3, "max-channels": 9}')
        equal(ctl.json("list_user_limits", "--user", name),
              [{"user": name, "limits": '{"max-channels":9,"max-connections":3}'}])
        ctl.ok("clear_user_limits", name, "max-channels")
        equal(api(t).get(f"/user-limits/{name}"), [{"user": name, "value": {"max-connections": 3}}])
        ctl.ok("clear_user_limits", name, "all")
        ctl.ok("clear_password", name)
        ctl.fails(DATA, "authenticate_user", name, "other")
        ctl.ok("delete_user", name)
        for words in (("delete_user", name), ("set_permissions", name, "", "", ""), ("change_password", name, "x"),
                      ("list_user_limits", "--user", name)):
            assert f'User "{name}" does not exist' in ctl.fails(NO_USER, *words), words


@case("rabbitmqctl hash_password")
def hashes_are_made_without_a_server(t):
    ctl, name = Ctl(t), t.unique()
    ctl.environment["LONGTAIL_MANAGEMENT_URL"] = f"http://127.0.0.1:{free_port()}"
    made = ctl.ok("hash_password", "secret").strip()
    ctl = Ctl(t)
    ctl.ok("add_user", "--pre-hashed-password", name, made)
    t.defer(lambda: api(t).ask("DELETE", f"/users/{name}"))
    ctl.ok("authenticate_user", name, "secret")


@case("rabbitmqctl vhosts limits tracing")
def vhosts_their_limits_and_tracing(t):
    ctl, name = Ctl(t, "rabbitmqctl"), t.unique()
    ctl.ok("add_vhost", name, "--description", "of a script", "--default-queue-type", "quorum")
    t.defer(lambda: api(t).ask("DELETE", f"/vhosts/{name}"))
    columns = ("list_vhosts", "name", "description", "tracing", "default_queue_type")
    assert [name, "of a script", "false", "quorum"] in ctl.rows(*columns)
    ctl.ok("trace_on", "-p", name)
    assert [name, "of a script", "true", "quorum"] in ctl.rows(*columns)
    ctl.ok("trace_off", "-p", name)
    equal(api(t).get(f"/vhosts/{name}")["tracing"], False)
    ctl.ok("set_vhost_limits", "-p", name, '{"max-queues": 4, "max-connections": 5}')
    equal(ctl.rows("list_vhost_limits", "-p", name), [[name, '{"max-connections":5,"max-queues":4}']])
    ctl.ok("clear_vhost_limits", "-p", name)
    equal(ctl.rows("list_vhost_limits", "-p", name), [])
    ctl.ok("delete_vhost", name)
    for words in (("delete_vhost", name), ("trace_on", "-p", name), ("list_queues", "-p", name)):
        assert f"Virtual host '{name}' does not exist" in ctl.fails(DATA, *words), words
    equal(api(t).ask("GET", f"/vhosts/{name}")[0], 404)


@case("rabbitmqctl queues exchanges bindings")
def queues_exchanges_and_bindings(t):
    ctl, at = Ctl(t, "lavinmqctl"), vhost(t)
    ctl.ok("create_queue", "-p", at, "a/b", "--durable", "--max-length", "5", "--dead-letter-exchange", "amq.direct")
    equal(ctl.ok("list_queues", "-p", at, "name", "durable", "arguments"),
          f"Listing queues for vhost {at} ...\nname\tdurable\targuments\n"
          'a/b\ttrue\t[{"x-dead-letter-exchange","amq.direct"},{"x-max-length",5}]\n')
    ctl.ok("create_exchange", "-p", at, "topic", "e", "--durable", "--alternate-exchange", "amq.fanout")
    assert ["e", "topic"] in ctl.rows("list_exchanges", "-p", at)
    api(t).do(201, "POST", f"/bindings/{at}/e/e/q/{quoted('a/b')}", {"routing_key": "k.#"})
    assert ["e", "exchange", "a/b", "queue", "k.#", "[]"] in ctl.rows("list_bindings", "-p", at)
    for _ in range(3):
        api(t).do(200, "POST", f"/exchanges/{at}/e/publish",
                  {"properties": {}, "routing_key": "k", "payload": "x", "payload_encoding": "string"})
    equal(ctl.rows("list_queues", "-p", at), [["a/b", "3"]])
    equal(ctl.json("list_queues", "-p", at, "messages", "name"), [{"name": "a/b", "messages": 3}])
    equal(ctl.ok("list_queues", "-p", at, "-f", "csv"), "name,messages\na/b,3\n")
    ctl.fails(DATA, "delete_queue", "-p", at, "a/b", "--if-empty")
    ctl.ok("purge_queue", "-p", at, "a/b")
    assert "with 0 ready messages" in ctl.ok("delete_queue", "-p", at, "a/b", "-e", "-u")
    equal(ctl.ok("-q", "list_queues", "-p", at), "")
    ctl.ok("delete_exchange", "-p", at, "e")
    for words in (("delete_queue", "-p", at, "a/b"), ("delete_exchange", "-p", at, "e")):
        ctl.fails(DATA, *words)


@case("rabbitmqctl connections")
def connections_channels_and_consumers(t):
    ctl, at = Ctl(t), vhost(t)
    parameters = pika.ConnectionParameters(t.host, t.port, at, pika.PlainCredentials("guest", "guest"))
    names = []
    for _ in range(3):
        connection = pika.BlockingConnection(parameters)
        t.defer(lambda connection=connection: connection.is_open and connection.close())
        channel = connection.channel()
        channel.basic_qos(prefetch_count=7)
        queue = channel.queue_declare("", exclusive=True).method.queue
        channel.basic_consume(queue, lambda *_: None, consumer_tag="tag")
        names.append((connection, queue))
    consumers = ctl.json("list_consumers", "-p", at)
    equal({(known["queue_name"], known["consumer_tag"], known["prefetch_count"]) for known in consumers},
          {(queue, "tag", 7) for _, queue in names})
    assert all(known["channel_pid"] in {row[0] for row in ctl.rows("list_channels")} for known in consumers)
    equal(ctl.rows("list_connections", "vhost", "user", "state").count([at, "guest", "running"]), 3)
    open_now = [row for row in ctl.rows("list_connections", "pid", "name", "vhost") if row[2] == at]
    ctl.ok("close_connection", open_now[0][0], "enough")
    ctl.ok("close_connection", open_now[1][1], "enough")
    eventually(lambda: ctl.rows("list_connections", "vhost").count([at]) == 1, "the end of two connections")
    equal(ctl.ok("close_all_connections", "-p", at, "good night"), "Closed 1 connections\n")
    said = set()
    for connection, _ in names:
        try:
            connection.process_data_events(PATIENCE)
        except ConnectionClosedByBroker as closed:
            said.add((closed.reply_code, closed.reply_text.rsplit(" - ")[-1]))
    equal(said, {(320, "enough"), (320, "good night")})
    ctl.fails(DATA, "close_connection", open_now[0][0], "again")


@case("rabbitmqctl policies parameters")
def policies_parameters_and_links(t):
    ctl, at, name = Ctl(t), vhost(t), t.unique()
    for kind, shown in (("policy", "policies"), ("operator_policy", "operator_policies")):
        ctl.ok(f"set_{kind}", "-p", at, name, "^a", '{"max-length": 3}', "--priority", "2", "--apply-to", "queues")
        equal(ctl.rows(f"list_{shown}", "-p", at), [[at, name, "^a", "queues", '{"max-length":3}', "2"]])
        ctl.ok(f"clear_{kind}", "-p", at, name)
        ctl.fails(DATA, f"clear_{kind}", "-p", at, name)
        ctl.fails(DATA, f"set_{kind}", "-p", at, name, "^a", "{")
    ctl.ok("set_parameter", "-p", at, "federation-upstream", name, '{"uri":"amqp://127.0.0.1:1"}')
    equal(ctl.rows("list_parameters", "-p", at), [["federation-upstream", name, '{"uri":"amqp://127.0.0.1:1"}']])
    equal(ctl.rows("list_federations", "-p", at), [[name, '{"uri":"amqp://127.0.0.1:1"}']])
    ctl.ok("delete_federation", "-p", at, name)
    ctl.ok("add_federation", "-p", at, name, '{"uri":"amqp://127.0.0.1:1"}')
    ctl.ok("clear_parameter", "-p", at, "federation-upstream", name)
    equal(ctl.rows("list_parameters", "-p", at), [])
    ctl.ok("set_global_parameter", name, '{"a":[1]}')
    assert [name, '{"a":[1]}'] in ctl.rows("list_global_parameters")
    ctl.ok("clear_global_parameter", name)
    ctl.fails(DATA, "clear_global_parameter", name)
    link = {"src-uri": "amqp://127.0.0.1:1", "src-queue": "a", "dest-uri": "amqp://127.0.0.1:1", "dest-queue": "b"}
    ctl.ok("add_shovel", "-p", at, name, json.dumps(link))
    eventually(lambda: [row[:2] for row in ctl.rows("list_shovels", "-p", at)] == [[name, "dynamic"]], "the shovel")
    ctl.ok("delete_shovel", "-p", at, name)
    eventually(lambda: not ctl.rows("list_shovels", "-p", at), "the end of the shovel")


@case("rabbitmqctl definitions")
def definitions_go_out_and_in(t):
    ctl, at = Ctl(t, "rabbitmqctl"), vhost(t)
    ctl.ok("create_queue", "-p", at, "q", "--durable")
    home = pathlib.Path(tempfile.mkdtemp(prefix="longtail-conformance-"))
    t.defer(lambda: shutil.rmtree(home, ignore_errors=True))
    equal(ctl.ok("export_definitions", "-p", at, str(home / "all.json")), "")
    ctl.ok("delete_queue", "-p", at, "q")
    ctl.ok("import_definitions", "-p", at, str(home / "all.json"))
    equal(ctl.rows("list_queues", "-p", at, "name", "durable"), [["q", "true"]])
    everything = ctl.ok("export_definitions")
    assert {"name": at} in [{"name": known["name"]} for known in json.loads(everything)["vhosts"]]
    ctl.ok("delete_queue", "-p", at, "q")
    ctl.ok("import_definitions", "-", given=everything)
    equal(ctl.rows("list_queues", "-p", at), [["q", "0"]])
    ctl.fails(DATA, "import_definitions", str(home / "none.json"))


@case("rabbitmqctl status")
def the_server_itself(t):
    ctl = Ctl(t)
    equal(ctl.ok("ping").splitlines()[-1], "Ping succeeded")
    equal(ctl.ok("await_startup"), "")
    overview = api(t).get("/overview")
    equal(ctl.ok("version").strip(), overview["longtail_version"])
    status = ctl.json("status")
    equal((status["node"], status["rabbitmq_version"]), (overview["node"], overview["rabbitmq_version"]))
    assert f"Node: {overview['node']}\n" in ctl.ok("status")
    name = ctl.json("cluster_status")["cluster_name"]
    ctl.ok("set_cluster_name", "of-a-script")
    t.defer(lambda: ctl.ok("set_cluster_name", name))
    equal(ctl.json("cluster_status")["cluster_name"], "of-a-script")
    flags = ctl.rows("list_feature_flags")
    assert flags and all(flag[1] == "enabled" for flag in flags), flags
    ctl.ok("enable_feature_flag", flags[0][0])
    ctl.fails(DATA, "enable_feature_flag", "no_such_flag")


@case("rabbitmqctl errors")
def what_cannot_be_done_fails(t):
    # As long as there are no users, whoever is on this machine is let in.
    name = t.unique()
    api(t).do(201, "PUT", f"/users/{name}", {"password": "secret", "tags": "administrator"})
    t.defer(lambda: api(t).ask("DELETE", f"/users/{name}"))
    for ctl in (Ctl(t), Ctl(t, "rabbitmqctl")):
        for absent in ("start_app", "stop_app", "set_vm_memory_high_watermark", "set_disk_free_limit", "rotate_logs",
                       "report", "environment", "join_cluster"):
            assert f"{absent} is not available: " in ctl.fails(UNAVAILABLE, absent, "0.4"), absent
        assert "did you mean `list_queues`?" in ctl.fails(USAGE, "list_queue")
        assert "did you mean `messages`?" in ctl.fails(USAGE, "list_queues", "mesages")
        assert "Usage\n\nrabbitmqctl " in ctl.fails(USAGE, "add_user")
        ctl.fails(USAGE, "add_vhost", "a", "b")
        ctl.fails(USAGE, "list_queues", "--no-such-option")
        assert "Login failed" in ctl.fails(UNAVAILABLE, "list_queues", "--user", name, "--password", "wrong")
        ctl.ok("list_queues", "--uri", f"http://{name}:secret@{t.websocket}")
        nowhere = f"http://127.0.0.1:{free_port()}"
        assert f"no server answers at {nowhere}" in ctl.fails(UNAVAILABLE, "ping", "--uri", nowhere)
        assert "no server answers" in ctl.fails(UNAVAILABLE, "await_startup", "--uri", nowhere, "--timeout", "1")
        assert "list_queues" in ctl.ok("help")
        assert "[--priority <priority>]" in ctl.ok("help", "set_policy")
        ctl.ok("-n", "rabbit@elsewhere", "-q", "list_vhosts", "--uri", f"http://guest:guest@{t.websocket}")

"""Metrics under RabbitMQ's names, as its dashboards ask for them: cases of the suite `amqp-management`."""

import urllib.error
import urllib.request

import pika
from api import PATIENCE
from harness.ports import free_port
from harness.server import OwnServer
from harness.suite import case, equal, eventually

#: What the panels of the dashboard RabbitMQ-Overview (Grafana 10991) are made of.
DASHBOARD = """
    build_info identity_info queues connections channels global_consumers global_publishers queue_messages_ready
    queue_messages_unacked resident_memory_limit_bytes process_resident_memory_bytes disk_space_available_bytes
    disk_space_available_limit_bytes process_max_fds process_open_fds process_max_tcp_sockets process_open_tcp_sockets
    global_messages_received_total global_messages_confirmed_total global_messages_routed_total
    global_messages_unroutable_dropped_total global_messages_unroutable_returned_total global_messages_redelivered_total
    global_messages_delivered_consume_manual_ack_total global_messages_delivered_consume_auto_ack_total
    global_messages_acknowledged_total global_messages_delivered_get_auto_ack_total
    global_messages_delivered_get_manual_ack_total global_messages_get_empty_total queues_created_total
    queues_declared_total queues_deleted_total channels_opened_total channels_closed_total connections_opened_total
    connections_closed_total alarms_memory_used_watermark alarms_free_disk_space_watermark
    global_messages_dead_lettered_expired_total global_messages_dead_lettered_rejected_total
    global_messages_dead_lettered_maxlen_total global_messages_dead_lettered_delivery_limit_total
    global_messages_dead_lettered_confirmed_total
""".split()

#: What a family has, where a queue, an exchange and a channel are.
FAMILIES = {
    "queue_coarse_metrics": "queue_messages_ready queue_messages_unacked queue_messages",
    "queue_metrics": "queue_messages_bytes queue_messages_published_total",
    "queue_consumer_count": "queue_consumers",
    "connection_coarse_metrics": "connection_incoming_bytes_total connection_outgoing_bytes_total",
    "connection_metrics": "connection_channels",
    "connection_churn_metrics": "connections_opened_total connections_closed_total channels_opened_total "
                                "channels_closed_total queues_declared_total queues_created_total queues_deleted_total",
    "channel_metrics": "channel_consumers channel_messages_unacked channel_messages_unconfirmed "
                       "channel_messages_uncommitted channel_acks_uncommitted channel_prefetch channel_consumers_prefetch",
    "channel_exchange_metrics": "channel_messages_published_total",
    "channel_queue_metrics": "channel_get_ack_total channel_get_total channel_get_empty_total "
                             "channel_messages_delivered_ack_total channel_messages_delivered_total "
                             "channel_messages_redelivered_total",
    "exchange_bindings": "exchange_bindings",
    "vhost_status": "cluster_vhost_status",
    "node_coarse_metrics": "process_open_fds process_open_tcp_sockets process_resident_memory_bytes "
                           "disk_space_available_bytes",
    "node_metrics": "process_max_fds process_max_tcp_sockets resident_memory_limit_bytes disk_space_available_limit_bytes",
    "alarm_metrics": "alarms_free_disk_space_watermark alarms_memory_used_watermark",
}

#: On every page.
ALWAYS = {"rabbitmq_detailed_identity_info", "rabbitmq_detailed_build_info"}


class Metrics:
    """A server of its own with a listener for metrics."""

    def __init__(self, t):
        self.port = free_port()
        self.server = OwnServer(t, "--listen", f"amqp-metrics=127.0.0.1:{self.port}")
        eventually(self._is_up, "the metrics are there")

    def _is_up(self):
        try:
            return self.scrape()
        except urllib.error.URLError:
            return None

    def scrape(self, path="/metrics"):
        """Numbers by series; a series that is there twice fails, as it does where it is read."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=PATIENCE) as answer:
            text = answer.read().decode()
        found, typed = {}, set()
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                name = line.split(" ")[2]
                assert name not in typed, f"{name} is described twice"
                typed.add(name)
            elif not line.startswith("#"):
                series, number = line.rsplit(" ", 1)
                assert series not in found, f"{series} is there twice"
                found[series] = float(number)
        return found


def names(series):
    """Without labels."""
    return {one.split("{")[0] for one in series}


@case("prometheus dashboard global_publishers disk_space_available_limit_bytes")
def the_dashboard_finds_what_it_shows(t):
    metrics = Metrics(t)
    found = metrics.scrape()
    equal({f"rabbitmq_{name}" for name in DASHBOARD} - names(found), set())
    publishers = 'rabbitmq_global_publishers{protocol="amqp091"}'
    equal(found[publishers], 0.0)
    equal(found["rabbitmq_disk_space_available_limit_bytes"], 50_000_000.0)
    connection = pika.BlockingConnection(pika.ConnectionParameters(*metrics.server.address))
    one, other, _ = (connection.channel() for _ in range(3))
    for channel in (one, other, one):
        channel.basic_publish("amq.fanout", "", b"x")
    eventually(lambda: metrics.scrape()[publishers] == 2, "two publish")
    equal(metrics.scrape()["rabbitmq_process_open_tcp_sockets"], 1.0)
    one.close()
    eventually(lambda: metrics.scrape()[publishers] == 1, "one is left")
    connection.close()
    eventually(lambda: metrics.scrape()[publishers] == 0, "none is left")


@case("prometheus detailed families")
def each_family_has_its_own(t):
    metrics = Metrics(t)
    connection = pika.BlockingConnection(pika.ConnectionParameters(*metrics.server.address))
    t.defer(connection.close)
    channel = connection.channel()
    channel.queue_declare("q")
    for _ in range(3):
        channel.basic_publish("", "q", b"x")
    eventually(lambda: channel.queue_declare("q", passive=True).method.message_count == 3, "published")
    channel.basic_qos(prefetch_count=7)
    channel.basic_get("q", auto_ack=True)
    channel.basic_get("q")
    for family, expected in FAMILIES.items():
        found = metrics.scrape(f"/metrics/detailed?family={family}")
        equal(names(found) - ALWAYS, {f"rabbitmq_detailed_{name}" for name in expected.split()}, family)
    # All of them at once, and one of them twice, are one page.
    everything = "&".join(f"family={family}" for family in [*FAMILIES, "queue_metrics", "nonsense"])
    found = metrics.scrape(f"/metrics/detailed?{everything}")
    of_channel = {key: number for key, number in found.items() if "{channel=" in key}
    [published] = [key for key in of_channel if "channel_messages_published_total" in key]
    assert published.endswith(' (1)",vhost="/",exchange=""}'), published
    equal(of_channel[published], 3.0)
    got = {key.split("{")[0]: number for key, number in of_channel.items() if key.endswith(' (1)",vhost="/",queue="q"}')}
    equal((got["rabbitmq_detailed_channel_get_total"], got["rabbitmq_detailed_channel_get_ack_total"]), (1.0, 1.0))
    [prefetch] = [number for key, number in of_channel.items() if "channel_consumers_prefetch" in key]
    equal(prefetch, 7.0)
    equal(found['rabbitmq_detailed_queue_messages_published_total{vhost="/",queue="q"}'], 3.0)
    # Of a vhost that there is not, there is nothing but what is of the node.
    none = metrics.scrape(f"/metrics/detailed?{everything}&vhost=nowhere")
    assert not [key for key in none if "channel=" in key or "queue=" in key], none

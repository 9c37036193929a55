// @cloudamqp/amqp-client drives queues, consumers, confirms, transactions and errors; once over TCP, once over WebSocket.

import assert from "node:assert/strict";

import { client, run, server, test, unique } from "../harness/suite.mjs";

const { AMQPClient, AMQPWebSocketClient } = client("@cloudamqp/amqp-client");

// Node has none of its own before version 22.
globalThis.WebSocket ??= client("ws");

const ways = {
  tcp: () => new AMQPClient(`amqp://guest:guest@${server.host}:${server.port}/`),
  websocket: () => new AMQPWebSocketClient(`ws://${server.beside}/ws/amqp`, "/", "guest", "guest"),
};

for (const [way, open] of Object.entries(ways)) {
  /** Runs `work` with a channel of a connection of its own. */
  const connected = (work) => async () => {
    const connection = await open().connect();
    try {
      await work(await connection.channel(), connection);
    } finally {
      await connection.close().catch(() => {});
    }
  };

  /** The name of a queue of the connection's own. */
  const queueOf = async (channel) => (await channel.queueDeclare("", { exclusive: true })).name;

  test(`messages_are_confirmed_and_consumed_over_${way}`, "publish consume confirm", connected(async (channel) => {
    const queue = await queueOf(channel);
    await channel.confirmSelect();
    const large = "x".repeat(100_000);
    for (const body of ["1", "2", large]) await channel.basicPublish("", queue, body, { type: "t" });
    await channel.basicQos(1);
    const got = [];
    await new Promise((resolve, reject) => {
      channel.basicConsume(queue, { noAck: false }, async (message) => {
        got.push([message.bodyString(), message.properties.type]);
        await message.ack();
        if (got.length === 3) resolve();
      }).catch(reject);
    });
    assert.deepEqual(got, [["1", "t"], ["2", "t"], [large, "t"]]);
  }));

  test(`exchanges_bind_and_route_over_${way}`, "exchange", connected(async (channel) => {
    const exchange = unique();
    await channel.exchangeDeclare(exchange, "topic", { autoDelete: true, durable: false });
    const queue = await queueOf(channel);
    await channel.queueBind(queue, exchange, "a.*");
    const headers = { n: 5, nested: { list: [1, "two"] } };
    await channel.basicPublish(exchange, "a.b", "yes", { headers });
    await channel.basicPublish(exchange, "b.a", "no");
    const message = await channel.basicGet(queue, { noAck: true });
    assert.equal(message.bodyString(), "yes");
    assert.deepEqual(message.properties.headers, headers);
    assert.equal(await channel.basicGet(queue, { noAck: true }), null);
  }));

  test(`transactions_commit_and_roll_back_over_${way}`, "tx", connected(async (channel) => {
    const queue = await queueOf(channel);
    await channel.txSelect();
    await channel.basicPublish("", queue, "lost");
    await channel.txRollback();
    await channel.basicPublish("", queue, "kept");
    await channel.txCommit();
    assert.equal((await channel.basicGet(queue, { noAck: true })).bodyString(), "kept");
    assert.equal(await channel.basicGet(queue, { noAck: true }), null);
  }));

  test(`an_error_closes_a_channel_and_not_the_connection_over_${way}`, "errors", connected(async (channel, connection) => {
    await assert.rejects(channel.queueDeclare(unique(), { passive: true }), /NOT_FOUND - no queue/);
    const next = await connection.channel();
    assert.equal((await next.queueDeclare("", { exclusive: true })).messageCount, 0);
  }));
}

await run();

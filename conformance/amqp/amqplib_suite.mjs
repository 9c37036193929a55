// amqplib drives queues, exchanges, consumers, confirms and errors.

import assert from "node:assert/strict";

import { client, run, server, test, unique } from "../harness/suite.mjs";

const amqp = client("amqplib");

/** Runs `work` with a connection of its own. */
function connected(work) {
  return async () => {
    const connection = await amqp.connect(`amqp://guest:guest@${server.host}:${server.port}/`);
    connection.on("error", () => {});
    try {
      await work(connection);
    } finally {
      await connection.close().catch(() => {});
    }
  };
}

/** A channel whose errors are kept. */
async function open(connection, kind = "createChannel") {
  const channel = await connection[kind]();
  channel.failed = new Promise((resolve) => channel.on("error", resolve));
  return channel;
}

test("messages_come_back_with_their_properties", "publish get", connected(async (connection) => {
  const channel = await open(connection);
  const { queue } = await channel.assertQueue("", { exclusive: true });
  const headers = { number: 5, large: 2 ** 40, half: 0.5, list: [1, "two"], nested: { yes: true } };
  channel.sendToQueue(queue, Buffer.from("body"), { headers, persistent: true, correlationId: "c", priority: 3 });
  const message = await channel.get(queue);
  assert.equal(message.content.toString(), "body");
  assert.deepEqual(message.properties.headers, headers);
  assert.equal(message.properties.correlationId, "c");
  assert.equal(message.properties.deliveryMode, 2);
  channel.ack(message);
  assert.equal(await channel.get(queue), false);
}));

test("confirms_cover_everything_published", "confirm", connected(async (connection) => {
  const channel = await open(connection, "createConfirmChannel");
  const { queue } = await channel.assertQueue(unique(), { durable: true });
  for (let number = 0; number < 500; number++) channel.sendToQueue(queue, Buffer.from(String(number)));
  await channel.waitForConfirms();
  const { messageCount } = await channel.deleteQueue(queue);
  assert.equal(messageCount, 500);
}));

test("consumers_take_what_a_topic_exchange_routes", "exchange consume", connected(async (connection) => {
  const channel = await open(connection);
  const exchange = unique();
  await channel.assertExchange(exchange, "topic", { autoDelete: true });
  const { queue } = await channel.assertQueue("", { exclusive: true });
  await channel.bindQueue(queue, exchange, "a.#");
  await channel.prefetch(2);
  const got = [];
  const all = new Promise((resolve) => {
    channel.consume(queue, (message) => {
      got.push(message.fields.routingKey);
      channel.ack(message);
      if (got.length === 3) resolve();
    });
  });
  for (const key of ["a", "b", "a.b", "a.b.c"]) channel.publish(exchange, key, Buffer.alloc(0));
  await all;
  assert.deepEqual(got, ["a", "a.b", "a.b.c"]);
}));

test("what_nobody_wants_comes_back", "mandatory", connected(async (connection) => {
  const channel = await open(connection);
  const returned = new Promise((resolve) => channel.on("return", resolve));
  channel.publish("", unique(), Buffer.from("x"), { mandatory: true });
  const message = await returned;
  assert.equal(message.fields.replyCode, 312);
  assert.equal(message.content.toString(), "x");
}));

test("a_consumer_is_told_that_its_queue_is_gone", "cancel", connected(async (connection) => {
  const [channel, other] = [await open(connection), await open(connection)];
  const { queue } = await channel.assertQueue(unique());
  const gone = new Promise((resolve) => channel.consume(queue, resolve));
  await channel.checkQueue(queue);
  await other.deleteQueue(queue);
  assert.equal(await gone, null);
}));

test("a_channel_closes_with_code_and_text_and_the_connection_goes_on", "errors", connected(async (connection) => {
  const channel = await open(connection);
  const name = unique();
  await assert.rejects(channel.checkQueue(name), /NOT_FOUND/);
  const error = await channel.failed;
  assert.equal(error.code, 404);
  const next = await open(connection);
  assert.equal((await next.assertQueue("", { exclusive: true })).messageCount, 0);
}));

test("answers_come_without_a_queue", "reply-to", connected(async (connection) => {
  const [client, worker] = [await open(connection), await open(connection)];
  const { queue } = await worker.assertQueue("", { exclusive: true });
  await worker.consume(queue, (request) => {
    const { correlationId, replyTo } = request.properties;
    worker.sendToQueue(replyTo, Buffer.from(`${request.content}!`), { correlationId });
  }, { noAck: true });
  const answered = new Promise((resolve) => client.consume("amq.rabbitmq.reply-to", resolve, { noAck: true }));
  client.sendToQueue(queue, Buffer.from("hello"), { replyTo: "amq.rabbitmq.reply-to", correlationId: "1" });
  const answer = await answered;
  assert.deepEqual([String(answer.content), answer.properties.correlationId], ["hello!", "1"]);
}));

/** A stream with ten messages. */
async function stream(connection) {
  const channel = await open(connection, "createConfirmChannel");
  const queue = unique();
  await channel.assertQueue(queue, { durable: true, arguments: { "x-queue-type": "stream" } });
  for (let number = 0; number < 10; number++) channel.sendToQueue(queue, Buffer.from(String(number)));
  await channel.waitForConfirms();
  return { channel, queue };
}

/** What a consumer that begins there gets: so many bodies and their offsets, each acknowledged. */
async function read(connection, queue, offset, count) {
  const channel = await open(connection);
  await channel.prefetch(2);
  const got = [];
  await new Promise((resolve, reject) => {
    channel.failed.then(reject);
    const take = (message) => {
      // The stream is deleted at the end.
      if (message === null) return;
      got.push([Number(message.content), message.properties.headers["x-stream-offset"]]);
      channel.ack(message);
      if (got.length === count) resolve();
    };
    const options = offset === undefined ? {} : { arguments: { "x-stream-offset": offset } };
    channel.consume(queue, take, options).then(() => count === 0 && resolve(), reject);
  });
  return { channel, got };
}

const pairs = (from, to) => Array.from({ length: to - from }, (_, at) => [from + at, from + at]);

test("a_stream_is_read_from_where_the_consumer_says", "stream", connected(async (connection) => {
  const { channel, queue } = await stream(connection);
  const long_ago = { "!": "timestamp", value: Math.floor(Date.now() / 1000) - 3600 };
  for (const [offset, from] of [["first", 0], [0, 0], [7, 7], [long_ago, 0], ["1h", 0]]) {
    const { got } = await read(connection, queue, offset, 10 - from);
    assert.deepEqual(got, pairs(from, 10), JSON.stringify(offset));
  }
  const { messageCount } = await channel.deleteQueue(queue);
  assert.equal(messageCount, 10);
}));

test("the_newest_of_a_stream_and_what_comes_next", "stream", connected(async (connection) => {
  const { channel, queue } = await stream(connection);
  const last = await read(connection, queue, "last", 1);
  assert.deepEqual(last.got, [[9, 9]]);
  for (const offset of ["next", undefined]) {
    const { channel: reader, got } = await read(connection, queue, offset, 0);
    const before = (await channel.checkQueue(queue)).messageCount;
    channel.sendToQueue(queue, Buffer.from(String(before)));
    await channel.waitForConfirms();
    while (got.length === 0) await reader.checkQueue(queue);
    assert.deepEqual(got, [[before, before]]);
    await reader.close();
  }
  await channel.deleteQueue(queue);
}), { rabbitmq: "3.10 does not count messages, and its last is a chunk" });

test("what_a_stream_does_not_do_is_said", "stream errors", connected(async (connection) => {
  const { channel, queue } = await stream(connection);
  const without = await open(connection);
  without.consume(queue, () => {}).catch(() => {});
  assert.match((await without.failed).message, /406.*prefetch count is not set/);
  const passing = await open(connection);
  await passing.prefetch(1);
  passing.consume(queue, () => {}, { arguments: { "x-stream-offset": "soon" } }).catch(() => {});
  assert.match((await passing.failed).message, /406.*x-stream-offset/);
  await channel.deleteQueue(queue);
}));

await run();

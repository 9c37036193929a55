// MQTT.js drives 3.1, 3.1.1 and 5.0, over TCP and WebSocket.

import assert from "node:assert/strict";
import { once } from "node:events";

import { client, run, server, test, unique, websocket } from "../harness/suite.mjs";

const mqtt = client("mqtt");

const VERSIONS = [3, 4, 5];

const opened = [];

/** Connects; messages are kept for `take`. */
async function open(version, options = {}, url = `mqtt://${server.host}:${server.port}`) {
  const peer = mqtt.connect(url, {
    protocolVersion: version,
    ...(version === 3 ? { protocolId: "MQIsdp" } : {}),
    clientId: unique(),
    reconnectPeriod: 0,
    connectTimeout: 8000,
    ...options,
  });
  opened.push(peer);
  peer.waiting = [];
  peer.asking = [];
  peer.on("message", (topic, payload, packet) => {
    const message = { topic, payload, packet };
    const next = peer.asking.shift();
    if (next) next(message);
    else peer.waiting.push(message);
  });
  peer.on("error", () => {});
  [peer.connack] = await once(peer, "connect");
  return peer;
}

/** The next message. */
function take(peer) {
  if (peer.waiting.length > 0) return Promise.resolve(peer.waiting.shift());
  return new Promise((resolve) => peer.asking.push(resolve));
}

/** The payloads, as text, of the next so many messages. */
async function texts(peer, count) {
  const out = [];
  while (out.length < count) out.push((await take(peer)).payload.toString());
  return out;
}

/** The payloads of the messages before the one with this payload. */
async function until(peer, last) {
  const out = [];
  for (;;) {
    const [text] = await texts(peer, 1);
    if (text === last) return out;
    out.push(text);
  }
}

const numbers = (count) => Array.from({ length: count }, (_, n) => String(n));

/** Registers a case whose clients are ended after it. */
function scenario(name, covers, body, differs) {
  const run = async () => {
    try {
      await body();
    } finally {
      await Promise.all(opened.splice(0).map((peer) => peer.endAsync(true)));
    }
  };
  test(name, covers, run, differs);
}

scenario("round_trips", "connect subscribe publish unsubscribe end", async () => {
  for (const version of VERSIONS) {
    const topic = unique();
    const peer = await open(version);
    const granted = await peer.subscribeAsync({ [`${topic}/0`]: { qos: 0 }, [`${topic}/1`]: { qos: 1 }, [`${topic}/2`]: { qos: 2 } });
    assert.deepEqual(granted.map((one) => one.qos), [0, 1, 2]);
    for (const qos of [0, 1, 2]) {
      for (const payload of [Buffer.alloc(0), Buffer.from("grüße"), Buffer.alloc(100_000, 7)]) {
        await peer.publishAsync(`${topic}/${qos}`, payload, { qos });
        const message = await take(peer);
        assert.deepEqual([message.topic, message.packet.qos, message.packet.retain], [`${topic}/${qos}`, qos, false]);
        assert.ok(message.payload.equals(payload));
      }
    }
    await peer.unsubscribeAsync(`${topic}/0`);
    await peer.publishAsync(`${topic}/0`, "unheard", { qos: 1 });
    await peer.publishAsync(`${topic}/1`, "last", { qos: 1 });
    assert.deepEqual(await until(peer, "last"), []);
    await peer.endAsync();
  }
});

/** Messages of these sizes through WebSocket, in both directions. */
async function sizesThroughWebSocket(version, path, sizes) {
  const topic = unique();
  const peer = await open(version, {}, `ws://${websocket}${path}`);
  const other = await open(version);
  await peer.subscribeAsync(topic, { qos: 2 });
  for (const size of sizes) {
    await other.publishAsync(topic, Buffer.alloc(size, 1), { qos: 1 });
    assert.equal((await take(peer)).payload.length, size);
    await peer.publishAsync(topic, Buffer.alloc(size, 2), { qos: 2 });
    assert.equal((await take(peer)).payload.length, size);
  }
}

scenario("websocket_transport", "ws", async () => {
  for (const version of VERSIONS) {
    for (const path of ["", "/mqtt"]) await sizesThroughWebSocket(version, path, [0, 1, 125, 126, 10_000]);
  }
});

scenario(
  "websocket_large",
  "ws",
  async () => {
    for (const version of VERSIONS) await sizesThroughWebSocket(version, "/mqtt", [65_535, 65_536, 300_000]);
  },
  { mosquitto: "2.0.11 leaves the end of a large message lying until more comes" },
);

scenario("persistent_session", "clean: false", async () => {
  for (const version of VERSIONS) {
    const topic = unique();
    const options = {
      clientId: unique(),
      clean: false,
      ...(version === 5 ? { properties: { sessionExpiryInterval: 600 } } : {}),
    };
    const first = await open(version, options);
    assert.equal(first.connack.sessionPresent, false);
    await first.subscribeAsync(topic, { qos: 1 });
    await first.endAsync();
    const publisher = await open(version);
    for (const n of numbers(100)) await publisher.publishAsync(topic, n, { qos: 1 });
    const second = await open(version, options);
    assert.equal(second.connack.sessionPresent, version !== 3);
    assert.deepEqual(await texts(second, 100), numbers(100));
    await second.endAsync();
    const third = await open(version, { ...options, clean: true });
    assert.equal(third.connack.sessionPresent, false);
  }
});

scenario("reconnects_by_itself", "reconnectPeriod", async () => {
  for (const version of [4, 5]) {
    const topic = unique();
    const peer = await open(version, {
      clean: false,
      reconnectPeriod: 10,
      ...(version === 5 ? { properties: { sessionExpiryInterval: 600 } } : {}),
    });
    await peer.subscribeAsync(topic, { qos: 2 });
    const publisher = await open(version);
    const heard = [];
    for (let round = 0; round < 5; round += 1) {
      for (let n = 0; n < 10; n += 1) await publisher.publishAsync(topic, `${round}-${n}`, { qos: 2 });
      const again = once(peer, "connect");
      peer.stream.destroy();
      await publisher.publishAsync(topic, `${round}-away`, { qos: 2 });
      const [connack] = await again;
      assert.equal(connack.sessionPresent, true);
    }
    await publisher.publishAsync(topic, "last", { qos: 2 });
    heard.push(...(await until(peer, "last")));
    const wanted = [];
    for (let round = 0; round < 5; round += 1) {
      for (let n = 0; n < 10; n += 1) wanted.push(`${round}-${n}`);
      wanted.push(`${round}-away`);
    }
    assert.deepEqual([...new Set(heard)].sort(), wanted.sort(), "all of them");
  }
});

scenario("will", "will", async () => {
  for (const version of VERSIONS) {
    const topic = unique();
    const watcher = await open(version);
    await watcher.subscribeAsync(topic, { qos: 1 });
    const lost = await open(version, { will: { topic, payload: Buffer.from("gone"), qos: 1, retain: true } });
    lost.stream.destroy();
    assert.deepEqual(await texts(watcher, 1), ["gone"]);
    const late = await open(version);
    await late.subscribeAsync(topic, { qos: 1 });
    const message = await take(late);
    assert.deepEqual([message.payload.toString(), message.packet.retain], ["gone", true]);
    const polite = await open(version, { will: { topic, payload: Buffer.from("unsaid"), qos: 1, retain: false } });
    await polite.endAsync();
    await late.publishAsync(topic, "last", { qos: 1 });
    assert.deepEqual(await until(watcher, "last"), []);
  }
});

scenario("will_with_delay", "willDelayInterval", async () => {
  const topic = unique();
  const watcher = await open(5);
  await watcher.subscribeAsync(topic, { qos: 1 });
  const lost = await open(5, {
    properties: { sessionExpiryInterval: 60 },
    will: { topic, payload: Buffer.from("gone"), qos: 1, retain: false, properties: { willDelayInterval: 1, contentType: "x" } },
  });
  lost.stream.destroy();
  const message = await take(watcher);
  assert.deepEqual([message.payload.toString(), message.packet.properties.contentType], ["gone", "x"]);
});

scenario("properties", "properties of PUBLISH", async () => {
  const topic = unique();
  const peer = await open(5);
  await peer.subscribeAsync(topic, { qos: 2, properties: { subscriptionIdentifier: 77 } });
  for (const qos of [0, 1, 2]) {
    await peer.publishAsync(topic, "x", {
      qos,
      properties: {
        payloadFormatIndicator: true,
        messageExpiryInterval: 600,
        responseTopic: "answers",
        correlationData: Buffer.from([0, 1]),
        contentType: "json",
        userProperties: { a: ["1", "2"], b: "3" },
      },
    });
    const found = (await take(peer)).packet.properties;
    assert.equal(found.payloadFormatIndicator, true);
    assert.equal(found.responseTopic, "answers");
    assert.deepEqual(found.correlationData, Buffer.from([0, 1]));
    assert.equal(found.contentType, "json");
    assert.deepEqual({ ...found.userProperties }, { a: ["1", "2"], b: "3" });
    assert.equal(found.subscriptionIdentifier, 77);
    assert.ok(found.messageExpiryInterval >= 590 && found.messageExpiryInterval <= 600);
  }
});

scenario("topic_aliases", "autoAssignTopicAlias", async () => {
  const topic = unique();
  const publisher = await open(5, { autoAssignTopicAlias: true });
  const subscriber = await open(5, { properties: { topicAliasMaximum: 5 } });
  await subscriber.subscribeAsync(`${topic}/+`, { qos: 1 });
  for (let n = 0; n < 60; n += 1) {
    await publisher.publishAsync(`${topic}/${n % 12}`, String(n), { qos: n % 2 });
    const message = await take(subscriber);
    assert.deepEqual([message.topic, message.payload.toString()], [`${topic}/${n % 12}`, String(n)]);
  }
});

scenario("assigned_client_id", "clientId: ''", async () => {
  const peer = await open(5, { clientId: "" });
  assert.ok(peer.connack.properties.assignedClientIdentifier.length > 0);
  const old = await open(4, { clientId: "" });
  await old.publishAsync(unique(), "x", { qos: 1 });
});

scenario("subscription_options", "nl rap rh", async () => {
  const topic = unique();
  const peer = await open(5);
  const other = await open(5);
  await other.publishAsync(topic, "old", { qos: 1, retain: true });
  await peer.subscribeAsync(topic, { qos: 1, nl: true, rap: true, rh: 2 });
  await peer.publishAsync(topic, "own", { qos: 1 });
  await other.publishAsync(topic, "other", { qos: 1, retain: true });
  const message = await take(peer);
  assert.deepEqual([message.payload.toString(), message.packet.retain], ["other", true]);
});

scenario("shared_subscriptions", "$share", async () => {
  const topic = unique();
  const group = [await open(5), await open(5), await open(4)];
  for (const peer of group) {
    await peer.subscribeAsync(`$share/g/${topic}`, { qos: 1 });
    await peer.subscribeAsync(`${topic}-last`, { qos: 1 });
  }
  const publisher = await open(5);
  for (const n of numbers(60)) await publisher.publishAsync(topic, n, { qos: 1 });
  await publisher.publishAsync(`${topic}-last`, "last", { qos: 1 });
  const heard = await Promise.all(group.map((peer) => until(peer, "last")));
  assert.deepEqual(heard.flat().sort(), numbers(60).sort());
  assert.ok(heard.every((part) => part.length > 0));
});

scenario("takeover", "one connection a client id", async () => {
  for (const version of [4, 5]) {
    const first = await open(version);
    const closed = once(first, "close");
    await open(version, { clientId: first.options.clientId });
    await closed;
  }
});

scenario("keep_alive", "keepalive", async () => {
  // Idle for longer than one and a half of it; half of it is room for a client that is late with its ping.
  const peers = await Promise.all([4, 5].map((version) => open(version, { keepalive: 4 })));
  let closed = 0;
  for (const peer of peers) {
    peer.once("close", () => {
      closed += 1;
    });
  }
  await new Promise((resolve) => setTimeout(resolve, 7000));
  assert.equal(closed, 0);
  for (const peer of peers) {
    const topic = unique();
    await peer.subscribeAsync(topic);
    await peer.publishAsync(topic, "x");
    assert.deepEqual(await texts(peer, 1), ["x"]);
  }
});

scenario("many_messages", "backlog of the client's own store", async () => {
  for (const version of VERSIONS) {
    const topic = unique();
    const subscriber = await open(version, version === 5 ? { properties: { receiveMaximum: 10 } } : {});
    const publisher = await open(version);
    await subscriber.subscribeAsync(topic, { qos: 1 });
    for (let at = 0; at < 1000; at += 10) {
      const batch = numbers(1000).slice(at, at + 10);
      await Promise.all(batch.map((n) => publisher.publishAsync(topic, n, { qos: 1 })));
    }
    const heard = await texts(subscriber, 1000);
    assert.deepEqual(heard.sort(), numbers(1000).sort());
  }
});

scenario("retained", "retain", async () => {
  for (const version of VERSIONS) {
    const topic = unique();
    const publisher = await open(version);
    for (const name of ["a", "b", "c"]) await publisher.publishAsync(`${topic}/${name}`, name, { qos: 1, retain: true });
    await publisher.publishAsync(`${topic}/b`, "", { qos: 1, retain: true });
    const peer = await open(version);
    await peer.subscribeAsync(`${topic}/+`, { qos: 1 });
    assert.deepEqual((await texts(peer, 2)).sort(), ["a", "c"]);
  }
});

scenario("refused_publish", "reason codes", async () => {
  const peer = await open(5);
  await assert.rejects(peer.publishAsync("$SYS/broker/version", "x", { qos: 1 }), { code: 0x87 });
  const packet = await peer.publishAsync(unique(), "x", { qos: 1 });
  assert.ok(packet === undefined || [undefined, 0, 0x10].includes(packet.reasonCode));
});

await run();

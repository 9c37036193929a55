// jackd splits the replies itself. One command at a time: this version takes all that arrived with a body for the body,
// and loses its place when replies come in several pieces. Its pauseTube sends no line end and never gets an answer.

import assert from "node:assert/strict";

import { client, run, server, test, tube } from "../harness/suite.mjs";

const JackdClient = client("jackd");

/** Runs a case with a client that uses and watches one fresh tube. */
function withClient(body) {
  return async () => {
    const jackd = new JackdClient();
    await jackd.connect(server);
    const name = tube();
    try {
      assert.equal(await jackd.use(name), name);
      assert.equal(Number(await jackd.watch(name)), 2);
      assert.equal(Number(await jackd.ignore("default")), 1);
      await body(jackd, name);
    } finally {
      await jackd.quit();
    }
  };
}

/** A value of a document as this client returns it: text. */
function value(document, key) {
  return document.match(new RegExp(`^${key}: "?([^"\n]*)"?$`, "m"))?.[1];
}

test("put_reserve_delete", "put reserve delete", withClient(async (jackd) => {
  const id = await jackd.put("grüße");
  const job = await jackd.reserve();
  assert.equal(job.id, id);
  assert.equal(job.payload.toString(), "grüße");
  await jackd.delete(id);
  await assert.rejects(jackd.delete(id), /NOT_FOUND/);
}));

test("bodies_with_line_ends", "put reserve", withClient(async (jackd) => {
  for (const text of ["\r\n", "a\r\nb\r\n", "\r\n\r\n\r\n", "x".repeat(60000)]) {
    await jackd.put(text);
    assert.equal((await jackd.reserveWithTimeout(0)).payload.toString(), text);
  }
}));

test("timed_out", "reserve-with-timeout", withClient(async (jackd) => {
  await assert.rejects(jackd.reserveWithTimeout(0), /TIMED_OUT/);
}));

test("deadline_soon", "DEADLINE_SOON", withClient(async (jackd) => {
  await jackd.put("x", { ttr: 4 });
  await jackd.reserve();
  await assert.rejects(jackd.reserveWithTimeout(30), /DEADLINE_SOON/);
}));

test("reserve_job", "reserve-job", withClient(async (jackd) => {
  const [first, second] = [await jackd.put("a"), await jackd.put("b")];
  assert.equal((await jackd.reserveJob(second)).payload.toString(), "b");
  assert.equal((await jackd.reserve()).id, first);
}));

test("life_of_a_job", "release bury touch kick kick-job stats-job", withClient(async (jackd) => {
  const id = await jackd.put("x", { priority: 9, ttr: 60 });
  await jackd.reserve();
  await jackd.touch(id);
  await jackd.release(id, { priority: 3, delay: 100 });
  let row = await jackd.statsJob(id);
  assert.deepEqual([value(row, "state"), value(row, "pri")], ["delayed", "3"]);
  await jackd.kickJob(id);
  await jackd.reserve();
  await jackd.bury(id, 4);
  row = await jackd.statsJob(id);
  assert.deepEqual([value(row, "state"), value(row, "pri")], ["buried", "4"]);
  assert.equal(Number(await jackd.kick(5)), 1);
}));

test("peeks", "peek peek-ready peek-delayed peek-buried", withClient(async (jackd) => {
  await assert.rejects(jackd.peekReady(), /NOT_FOUND/);
  const buried = await jackd.put("b");
  await jackd.reserve();
  await jackd.bury(buried, 0);
  const [delayed, ready] = [await jackd.put("d", { delay: 100 }), await jackd.put("r")];
  assert.equal((await jackd.peekReady()).id, ready);
  assert.equal((await jackd.peekDelayed()).id, delayed);
  assert.equal((await jackd.peekBuried()).id, buried);
  assert.equal((await jackd.peek(delayed)).payload.toString(), "d");
}));

test("tubes_and_statistics", "list-tubes list-tubes-watched list-tube-used stats stats-tube", withClient(async (jackd, name) => {
  assert.equal(await jackd.listTubeUsed(), name);
  assert.match(await jackd.listTubesWatched(), new RegExp(`^- ${name}$`, "m"));
  assert.match(await jackd.listTubes(), new RegExp(`^- ${name}$`, "m"));
  assert.equal(value(await jackd.statsTube(name), "name"), name);
  assert.match(value(await jackd.stats(), "total-jobs"), /^\d+$/);
  await assert.rejects(jackd.ignore(name), /NOT_IGNORED/);
}));

await run();

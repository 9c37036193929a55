// fivebeans, and its worker loop, which reads statistics with js-yaml.

import assert from "node:assert/strict";

import { client, run, server, test, tube } from "../harness/suite.mjs";

const fivebeans = client("fivebeans");

/** Calls a command of the client; resolves to what its callback gets, an array when that is several values. */
function call(beans, command, ...args) {
  return new Promise((resolve, reject) => {
    beans[command](...args, (error, ...values) => {
      if (error) reject(new Error(String(error)));
      else resolve(values.length > 1 ? values : values[0]);
    });
  });
}

async function connect() {
  const beans = new fivebeans.client(server.host, server.port);
  await new Promise((resolve, reject) => beans.on("connect", resolve).on("error", reject).connect());
  return beans;
}

/** Runs a case with a client that uses and watches one fresh tube. */
function withClient(body) {
  return async () => {
    const beans = await connect();
    const name = tube();
    try {
      assert.equal(await call(beans, "use", name), name);
      assert.equal(await call(beans, "watch", name), "2");
      assert.equal(await call(beans, "ignore", "default"), "1");
      await body(beans, name);
    } finally {
      beans.end();
    }
  };
}

test("put_reserve_destroy", "put reserve delete", withClient(async (beans) => {
  const id = await call(beans, "put", 0, 0, 60, "a\r\nb");
  const [got, payload] = await call(beans, "reserve");
  assert.deepEqual([got, payload.toString()], [id, "a\r\nb"]);
  await call(beans, "destroy", id);
  await assert.rejects(call(beans, "destroy", id), /NOT_FOUND/);
  await assert.rejects(call(beans, "reserve_with_timeout", 0), /TIMED_OUT/);
}));

test("life_of_a_job", "release bury touch kick kick-job stats-job", withClient(async (beans, name) => {
  const id = await call(beans, "put", 7, 0, 60, "x");
  await call(beans, "reserve");
  await call(beans, "touch", id);
  await call(beans, "release", id, 3, 100);
  let row = await call(beans, "stats_job", id);
  assert.deepEqual([row.tube, row.state, row.pri, row.delay], [name, "delayed", 3, 100]);
  await call(beans, "kick_job", id);
  await call(beans, "reserve");
  await call(beans, "bury", id, 4);
  row = await call(beans, "stats_job", id);
  assert.deepEqual([row.state, row.buries], ["buried", 1]);
  assert.equal(await call(beans, "kick", 10), "1");
}));

test("peeks", "peek peek-ready peek-delayed peek-buried", withClient(async (beans) => {
  await assert.rejects(call(beans, "peek_ready"), /NOT_FOUND/);
  await assert.rejects(call(beans, "peek_buried"), /NOT_FOUND/);
  const [delayed, ready] = [await call(beans, "put", 0, 100, 60, "d"), await call(beans, "put", 0, 0, 60, "r")];
  assert.equal((await call(beans, "peek_ready"))[0], ready);
  assert.equal((await call(beans, "peek_delayed"))[0], delayed);
  assert.equal((await call(beans, "peek", ready))[1].toString(), "r");
}));

test("tubes_and_statistics", "list-tubes list-tube-used list-tubes-watched stats stats-tube pause-tube", withClient(async (beans, name) => {
  assert.equal(await call(beans, "list_tube_used"), name);
  assert.deepEqual(await call(beans, "list_tubes_watched"), [name]);
  assert.ok((await call(beans, "list_tubes")).includes(name));
  await call(beans, "pause_tube", name, 100);
  const row = await call(beans, "stats_tube", name);
  assert.deepEqual([row.name, row.pause, row["current-using"]], [name, 100, 1]);
  const stats = await call(beans, "stats");
  assert.equal(typeof stats["total-jobs"], "number");
  assert.equal(typeof stats.hostname, "string");
  await assert.rejects(call(beans, "ignore", name), /NOT_IGNORED/);
}));

test("worker_loop", "reserve-with-timeout delete bury", async () => {
  const name = tube();
  const done = [];
  const worker = new fivebeans.worker({
    id: "conformance",
    host: server.host,
    port: server.port,
    handlers: {
      echo: {
        work: (payload, callback) => {
          done.push(payload);
          callback(payload === "bad" ? "bury" : "success", 0);
        },
      },
    },
    ignoreDefault: true,
    timeout: 1,
  });
  const beans = await connect();
  try {
    await call(beans, "use", name);
    const handled = new Promise((resolve) => worker.on("job.buried", resolve));
    await new Promise((resolve) => {
      worker.on("started", resolve);
      worker.start([name]);
    });
    for (const payload of ["one", "two", "bad"]) {
      await call(beans, "put", 0, 0, 60, JSON.stringify({ type: "echo", payload }));
    }
    await handled;
    assert.deepEqual(done, ["one", "two", "bad"]);
    await new Promise((resolve) => worker.on("stopped", resolve).stop());
    const row = await call(beans, "stats_tube", name);
    assert.deepEqual([row["current-jobs-buried"], row["current-jobs-ready"], row["cmd-delete"]], [1, 0, 2]);
  } finally {
    beans.end();
  }
});

await run();

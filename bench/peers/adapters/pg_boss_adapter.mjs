// pg-boss: https://pgboss.io/api/workers.
// A handler is given up to 1,000 jobs as one array, which is completed as a whole.

import { setTimeout as sleep } from "node:timers/promises";

import { batches, installed, main } from "./protocol.mjs";

const { PgBoss } = installed("pg-boss");

const QUEUE = "bench";

async function setup(url) {
  const boss = await started(url, { max: 2 });
  await boss.createQueue(QUEUE, { notify: true });
  await boss.stop();
}

async function producer(url) {
  const boss = await started(url, { max: 2, supervise: false, schedule: false, migrate: false });
  return {
    bulk: async (jobs) => {
      for (const count of batches(jobs)) await boss.insert(QUEUE, Array(count).fill({}));
    },
    noop: () => boss.send(QUEUE),
    pickup: (t) => boss.send(QUEUE, { t }),
    close: () => boss.stop({ graceful: false }),
  };
}

async function work(url, ran, small) {
  const boss = await started(url, { max: 10, useListenNotify: true });
  const handler = async (jobs) => {
    for (const { data } of jobs) data?.t ? ran.pickup(data.t) : ran.job();
  };
  const batched = { batchSize: 1000, burstWhenBatchFull: true, localConcurrency: 2 };
  ran.ready();
  const working = small
    ? oneByOne(boss, handler, ran.stopping)
    : boss.work(QUEUE, { ...batched, pollingIntervalSeconds: 0.5 }, handler);
  await ran.stopping;
  await working;
  await boss.stop({ timeout: 2_000 });
}

// Its worker waits for its next poll after each batch of one, so one at a time is done by hand.
async function oneByOne(boss, handler, stopping) {
  let stopped = false;
  stopping.then(() => (stopped = true));
  while (!stopped) {
    const jobs = await boss.fetch(QUEUE, { batchSize: 1 });
    await handler(jobs);
    if (jobs.length === 0) await sleep(500);
    else await boss.complete(QUEUE, jobs[0].id);
  }
}

async function started(url, options) {
  const boss = new PgBoss({ connectionString: url, ...options });
  boss.on("error", console.error);
  await boss.start();
  return boss;
}

await main({ setup, producer, work });

// Graphile Worker: https://worker.graphile.org/docs/performance.
// A local queue fetches 1,000 jobs at a time, endings are batched; finished jobs are deleted.

import { batches, installed, main } from "./protocol.mjs";

const { Logger, makeWorkerUtils, run, runMigrations } = installed("graphile-worker");

const quiet = new Logger(() => () => {});

async function setup(url) {
  await runMigrations({ connectionString: url, logger: quiet });
}

async function producer(url) {
  const utils = await makeWorkerUtils({ connectionString: url, logger: quiet, maxPoolSize: 2 });
  const noop = { identifier: "noop", payload: {} };
  return {
    bulk: async (jobs) => {
      for (const count of batches(jobs)) await utils.addJobs(Array(count).fill(noop));
    },
    noop: () => utils.addJob("noop", {}),
    pickup: (t) => utils.addJob("pickup", { t }),
    close: () => utils.release(),
  };
}

async function work(url, ran, small) {
  const batched = {
    concurrentJobs: 100,
    localQueue: { size: 1000 },
    completeJobBatchDelay: 0,
    failJobBatchDelay: 0,
  };
  const runner = await run({
    noHandleSignals: true,
    taskList: { noop: () => ran.job(), pickup: ({ t }) => ran.pickup(t) },
    preset: {
      worker: {
        connectionString: url,
        logger: quiet,
        maxPoolSize: 10,
        ...(small ? { concurrentJobs: 1 } : batched),
      },
    },
  });
  ran.ready();
  await ran.stopping;
  await runner.stop();
}

await main({ setup, producer, work });

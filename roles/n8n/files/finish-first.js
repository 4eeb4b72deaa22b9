"use strict";
// Lets a worker end when the last job that it has taken is done: EXTERNAL_HOOK_FILES=/etc/n8n/finish-first.js
//
// n8n 2.41 counts a job as running when it has read its execution from the database. A worker that is stopped between
// taking a job and that closes the runner's connection and the database, and the execution, which somebody was told is
// accepted, fails with "Connection terminated". Bull knows of each job from the moment that it was taken.
// Bull 4.16 itself fetches the next job with the end of the last; one whose answer comes when the queue has just been
// paused would stay with this worker, undone, until its lock is over, and fail.
// At a stop n8n calls its services by descending priority: at 200, the highest, it stops taking jobs and waits for those
// that it counts, from 100 on it closes what they need. Its own limit for a stop holds here, too.
const WITH_THE_QUEUES = 200;
const BEFORE_CONNECTIONS_CLOSE = 150;

function loaded(end) {
  const path = Object.keys(require.cache).find((name) => name.endsWith(end));
  if (!path) throw new Error(`no module ${end} is loaded`);
  return require.cache[path].exports;
}

function processWhatStillComes(queue) {
  const jobFrom = queue.nextJobFromJobData;
  queue.nextJobFromJobData = async (data, id) => {
    const job = await jobFrom.call(queue, data, id);
    return job && queue.paused ? queue.processJob(job, true) : job;
  };
}

function register({ Container }, { ShutdownMetadata }) {
  const queues = () => {
    const { ScalingService } = loaded("/n8n/dist/scaling/scaling.service.js");
    return [...Container.get(ScalingService).queueByName.values()];
  };
  class FinishFirst {
    prepare() {
      queues().forEach(processWhatStillComes);
    }
    async finish() {
      await Promise.all(queues().map((queue) => queue.whenCurrentJobsFinished()));
    }
  }
  Container.set(FinishFirst, new FinishFirst());
  const shutdown = Container.get(ShutdownMetadata);
  shutdown.register(WITH_THE_QUEUES, { serviceClass: FinishFirst, methodName: "prepare" });
  shutdown.register(BEFORE_CONNECTIONS_CLOSE, { serviceClass: FinishFirst, methodName: "finish" });
}

try {
  register(loaded("/@n8n/di/dist/di.js"), loaded("/@n8n/decorators/dist/shutdown/shutdown-metadata.js"));
} catch (error) {
  // Thrown, it would keep the worker from starting.
  console.error(`finish-first.js: ${error.message}; when this worker stops, a job that it is just taking may fail`);
}

// What the file is loaded for has happened; there is no hook to call.
module.exports = {};

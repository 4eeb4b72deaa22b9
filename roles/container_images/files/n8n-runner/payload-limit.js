// Loaded into the task runner before its own code: `node --require payload-limit.js start.js <bytes>`.
//
// The worker parses and saves what a Code node returns, so a result of some dozen MB can end it and with it every other
// execution it has. The broker's own limit (N8N_RUNNERS_MAX_PAYLOAD) closes the connection instead, which ends the
// runner and all of its tasks. A send() that throws is turned into the error of the one task by n8n's own code.
'use strict';

const { createRequire } = require('node:module');

const limit = Number(process.argv[2]);
if (!(limit > 0)) throw new Error(`payload-limit: '${process.argv[2]}' is no number of bytes`);
const { WebSocket } = createRequire(process.argv[1])('ws');
const send = WebSocket.prototype.send;

function tooLarge(bytes) {
	const MB = 1024 * 1024;
	const error = new Error();
	// Enumerable, or JSON would leave it out on the way to the worker.
	Object.defineProperty(error, 'message', {
		enumerable: true,
		value: `The result is too large: ${Math.ceil(bytes / MB)} MiB, ${Math.floor(limit / MB)} are allowed (n8n_workers_payload_max_mib)`,
	});
	return error;
}

WebSocket.prototype.send = function (data, ...rest) {
	const bytes = Buffer.byteLength(data);
	if (bytes > limit) throw tooLarge(bytes);
	return send.call(this, data, ...rest);
};

// Puts the listed modules before n8n's own where the task runner's `require` for Code nodes looks. What they need
// themselves is found beside them, and nothing else of theirs is in sight of the runner.
'use strict';

const fs = require('node:fs');
const path = require('node:path');

const PACKAGES = '/usr/local/lib/n8n-packages';
const N8N = '/usr/local/lib/n8n/node_modules';
const RUNNER = `${N8N}/@n8n/task-runner`;
const { dependencies } = require(`${PACKAGES}/package.json`);
const needed = require(`${RUNNER}/package.json`).dependencies;

function versionOf(name) {
	const places = [`${RUNNER}/node_modules/${name}`, `${N8N}/${name}`];
	return require(`${places.find(fs.existsSync)}/package.json`).version;
}

for (const [name, version] of Object.entries(dependencies)) {
	if (/^(@[^/]+\/)?n8n-nodes-/.test(name)) continue;
	// It would get the listed one, too.
	const own = name in needed && versionOf(name);
	if (own && own !== version) throw new Error(`${name}: the task runner itself needs ${own}, not ${version}`);
	const link = `${RUNNER}/dist/js-task-runner/node_modules/${name}`;
	fs.mkdirSync(path.dirname(link), { recursive: true });
	fs.symlinkSync(`${PACKAGES}/node_modules/${name}`, link);
}

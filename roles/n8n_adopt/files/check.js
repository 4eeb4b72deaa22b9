// Runs in n8n's image, without a network. Reads {key, credentials: [[id, data]], keys: {id: {value, algorithm}},
// password, hash, migrations: [name]} from standard input; writes what fits and what does not, never a value.
const { createHash, createHmac } = require('crypto');
const modules = '/usr/local/lib/n8n/node_modules';
const { CipherAes256CBC } = require(`${modules}/n8n-core/dist/encryption/aes-256-cbc.js`);
const { CipherAes256GCM } = require(`${modules}/n8n-core/dist/encryption/aes-256-gcm.js`);
const { postgresMigrations } = require(`${modules}/@n8n/db/dist/migrations/postgresdb/index.js`);
const bcrypt = require(`${modules}/bcryptjs`);

const input = JSON.parse(require('fs').readFileSync(0, 'utf8'));
const ciphers = { 'aes-256-cbc': new CipherAes256CBC(), 'aes-256-gcm': new CipherAes256GCM() };
const wrappingKey = () => createHash('sha256').update(input.key).digest('hex');
const dataKey = (row) => ciphers['aes-256-gcm'].decrypt(row.value, wrappingKey());

// `<id of a data key>:<text>`, or text encrypted with the instance's key itself.
function decrypt(data) {
  const [, id, text] = /^([A-Za-z0-9_-]{1,36}):(.*)$/s.exec(data) ?? [undefined, undefined, data];
  if (id === undefined) return ciphers['aes-256-cbc'].decrypt(text, input.key);
  const row = input.keys[id];
  return ciphers[row.algorithm].decrypt(text, dataKey(row));
}

function attempt(action) {
  try { return action(); } catch { return undefined; }
}

const proofs = {};
const failed = [];
for (const [id, data] of input.credentials) {
  const fields = attempt(() => JSON.parse(decrypt(data)));
  if (fields === undefined) failed.push(id);
  else proofs[id] = createHmac('sha256', input.key).update(JSON.stringify(fields)).digest('hex');
}
const opened = Object.values(input.keys).map((row) => attempt(() => dataKey(row)) !== undefined);
const age = (name) => Number(/\d{13}$/.exec(name)?.[0] ?? 0);
const newest = Math.max(...postgresMigrations.map((migration) => age(migration.name)));
console.log(JSON.stringify({
  proofs,
  failed,
  keys_fit: opened.every(Boolean),
  password_fits: Boolean(input.hash) && bcrypt.compareSync(input.password, input.hash),
  newer_migrations: input.migrations.filter((name) => age(name) > newest),
}));

#!/bin/sh
# Runs in the container of n8n's main process: decrypts the credential $1 as n8n does and prints the proof that check.js
# made of it, never the credential. /tmp is memory.
set -eu
umask 077
file=$(mktemp -p /tmp)
trap 'rm -f "$file"' EXIT
n8n export:credentials --id="$1" --decrypted --output="$file" >/dev/null 2>&1 || true
node -e '
const fs = require("fs");
const [{ data }] = JSON.parse(fs.readFileSync(process.argv[1], "utf8"));
const key = fs.readFileSync("/run/secrets/n8n_encryption_key");
console.log(require("crypto").createHmac("sha256", key).update(JSON.stringify(data)).digest("hex"));
' "$file"

#!/bin/sh
# n8n looks for community nodes below its home, which is a volume or in memory: there it finds the image's at each start.
set -e
own=/usr/local/lib/n8n-packages/node_modules
there=$HOME/.n8n/nodes/node_modules
if [ "$(readlink "$there")" != "$own" ]; then
    mkdir -p "${there%/*}"
    # Installed by another n8n that had this home.
    [ -L "$there" ] || [ ! -e "$there" ] || mv --backup=numbered -T "$there" "$there.replaced"
    ln -sfn "$own" "$there"
fi
exec /usr/local/lib/n8n/node_modules/n8n/bin/n8n "$@"

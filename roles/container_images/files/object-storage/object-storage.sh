#!/bin/bash
# SeaweedFS, its console and the worker that carries out life cycle rules; one ends, all end. Arguments go to the server.
# Without a secret file for the console there is neither console nor worker.
console=/run/secrets/object_storage_console
weed -logtostderr server -options=/etc/seaweedfs/server.options "$@" &
members=($!)
if [ -r "$console" ]; then
    # The console takes one file of options only.
    umask 077
    mkdir -p /var/lib/seaweedfs/console
    cat /etc/seaweedfs/console.options "$console" > /tmp/console.options
    weed -logtostderr admin -options=/tmp/console.options &
    members+=($!)
    weed -logtostderr worker -admin=127.0.0.1:23646 -jobType=s3_lifecycle -workingDir=/var/lib/seaweedfs/console &
    members+=($!)
fi
trap 'kill -TERM "${members[@]}" 2> /dev/null' TERM INT
wait -n "${members[@]}"
code=$?
kill -TERM "${members[@]}" 2> /dev/null
wait
exit "$code"

#!/bin/sh
# Healthy when it answers PONG; the password comes from a file so that it is in no environment or process list.
if [ -n "${REDIS_PASSWORD_FILE:-}" ]; then
    REDISCLI_AUTH=$(cat "$REDIS_PASSWORD_FILE") || exit 1
    export REDISCLI_AUTH
fi
[ "$(redis-cli -h 127.0.0.1 -p "${REDIS_PORT:-6379}" ping 2>/dev/null)" = PONG ]

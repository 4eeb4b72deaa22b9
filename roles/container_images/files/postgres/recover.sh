#!/bin/sh
# postgres-recover DATA SECONDS [archive]: brings a restored data directory to its recovery target, unreachable and without
# archiving, and shuts it down. Says on its output what it then is, as one line of JSON. With `archive` the new timeline
# is left for the next server to archive: another recovery must not take the same number.
set -eu

data=$1 seconds=$2 archive=${3:-}
log=/tmp/recovery.log
fail() { tail -n 30 "$log" >&2; echo "postgres-recover: $*" >&2; exit 1; }
ask() { psql -XqAt -v ON_ERROR_STOP=1 -h /tmp -U postgres -d postgres -c "$1"; }

# Memory and connections of the former server do not matter: nobody connects while it recovers (hot_standby off).
postgres -D "$data" -c config_file=/etc/postgresql/postgresql.conf -c hba_file=/etc/postgresql/recovery_hba.conf \
    -c listen_addresses= -c unix_socket_directories=/tmp -c archive_mode=off -c hot_standby=off \
    -c shared_buffers=256MB -c max_wal_size=4GB -c checkpoint_timeout=30min > "$log" 2>&1 &
server=$!
deadline=$(($(date +%s) + seconds))
until ask 'SELECT 1' > /dev/null 2>&1; do
    kill -0 "$server" 2> /dev/null || fail "the server ended before the recovery target was reached"
    [ "$(date +%s)" -lt "$deadline" ] || { kill -INT "$server"; fail "not done within its time limit of $seconds s"; }
    sleep 0.2
done

ask "SELECT json_build_object(
    'system_id', (SELECT system_identifier::text FROM pg_control_system()),
    'timeline', (SELECT timeline_id FROM pg_control_checkpoint()),
    'last_lsn', coalesce(pg_last_wal_replay_lsn(), pg_current_wal_lsn())::text,
    'last_transaction', pg_last_xact_replay_timestamp(),
    'databases', (SELECT json_object_agg(datname, pg_database_size(oid)) FROM pg_database WHERE NOT datistemplate))"
for setting in restore_command recovery_target recovery_target_time recovery_target_lsn recovery_target_name \
    recovery_target_action recovery_target_timeline recovery_target_inclusive; do
    ask "ALTER SYSTEM RESET $setting"
done
kill -INT "$server"
wait "$server" || fail "the server did not shut down cleanly"

[ -n "$archive" ] || exit 0
current=$(pg_controldata -D "$data" | sed -n "s/^Latest checkpoint's REDO WAL file: *//p")
for file in "$data/pg_wal/$(echo "$current" | cut -c1-8)"*; do
    name=${file##*/}
    case $name in
        "$current" | *.backup) continue ;;
        *.history) ;;
        *) expr "$name" \< "$current" > /dev/null || continue ;;
    esac
    [ -e "$data/pg_wal/archive_status/$name.done" ] || : > "$data/pg_wal/archive_status/$name.ready"
done

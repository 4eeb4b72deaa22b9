"""What the kind pgbackrest runs in the server's container beside pgBackRest itself."""

from __future__ import annotations

# A process whose run was killed: it holds pgBackRest's lock in the container, while we hold the platform's.
END_ORPHAN = r"""
for lock in /tmp/pgbackrest/"$1"-backup-*.lock; do
    [ -s "$lock" ] || continue
    pid=$(sed -n 's/.*"pid":\([0-9]*\).*/\1/p' "$lock")
    grep -qs pgbackrest "/proc/$pid/cmdline" || continue
    kill "$pid" && echo "$pid"
    timeout 30 tail -q --pid="$pid" -f /dev/null
done
"""
COMPARE_COPIES = r"""
option=$1 && shift
digest() { { pgbackrest "$option" repo-get "$1" || echo "unreadable: $1"; } 2> /dev/null | sha256sum; }
for path; do
    first=$(digest "$path") && second=$(digest "$path.copy")
    [ "$first" = "$second" ] || echo "$path"
done
"""
ARCHIVER = """SELECT json_build_object(
  'last_archived_wal', last_archived_wal, 'failed_count', failed_count,
  'last_archived_seconds', extract(epoch FROM now() - last_archived_time),
  'lag_seconds', coalesce((SELECT extract(epoch FROM now() - min(modification)) FROM pg_ls_archive_statusdir()
     WHERE name LIKE '%.ready'), 0),
  'up_seconds', extract(epoch FROM now() - pg_postmaster_start_time()),
  'waiting', (SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'),
  'wal_bytes', (SELECT sum(size) FROM pg_ls_waldir()),
  'segment_bytes', (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_segment_size'),
  'database_bytes', (SELECT sum(pg_database_size(oid)) FROM pg_database))
FROM pg_stat_archiver"""

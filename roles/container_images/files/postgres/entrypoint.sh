#!/bin/sh
# Starts Postgres on the current generation of its data, /var/lib/postgresql/<major>/<generation>, which the file
# `current` names. A restore writes the next generation beside it and then changes `current`.
set -eu

root=/var/lib/postgresql
current=$root/current
major=$POSTGRES_MAJOR
archived=/var/lib/pgbackrest/backup/${PGBACKREST_STANZA:-none}/backup.info

say() { echo "postgres-entrypoint: $*" >&2; }
refuse() { say "refused: $*"; exit 78; }

write_current() {
    echo "$1" > "$current.new"
    sync "$current.new"
    mv "$current.new" "$current"
    sync "$root"
}

initialise() {
    [ -r "${POSTGRES_PASSWORD_FILE:-}" ] || refuse "no data yet, and POSTGRES_PASSWORD_FILE names no readable file"
    [ -s "$POSTGRES_PASSWORD_FILE" ] || refuse "no data yet, and $POSTGRES_PASSWORD_FILE is empty"
    say "no data yet: initialising $major/1"
    # Made under another name and renamed when whole: a kill in the middle leaves nothing that looks like data.
    mkdir -p "$root/$major"
    rm -rf "$root/$major"/.new.*
    new=$(mktemp -d "$root/$major/.new.XXXXXX")
    initdb -D "$new" -U postgres --pwfile="$POSTGRES_PASSWORD_FILE" --data-checksums \
        --auth-host=scram-sha-256 --auth-local=peer -E UTF8 --locale=C.UTF-8 > /dev/null
    mv "$new" "$root/$major/1"
    sync "$root/$major"
    write_current "$major/1"
}

[ -w "$root" ] || refuse "$root is not writable by uid $(id -u)"
# Held through exec by every Postgres process: postmaster.pid alone does not guard against a second container.
exec 9> "$root/.lock"
flock -w 20 9 || refuse "another container runs on this volume"

if [ ! -e "$current" ]; then
    found=$(cd "$root" && find . -mindepth 3 -maxdepth 3 -name PG_VERSION -not -path '*/.new.*' | sort | tr '\n' ' ')
    case $found in
        "")
            # An empty server would be taken for the lost one until somebody looks for a workflow.
            [ ! -e "$archived" ] || refuse "no data, but $archived says that there are backups of it: restore it (docs/restore.md)"
            initialise
            ;;
        # Killed between the rename and writing `current`.
        "./$major/1/PG_VERSION ") write_current "$major/1" ;;
        *) refuse "data found ($found) but no $current that names it" ;;
    esac
fi

generation=$(cat "$current")
data=$root/$generation
[ "${generation%%/*}" = "$major" ] || refuse "the data is of major ${generation%%/*} ($generation), this image has $major"
[ -e "$data/PG_VERSION" ] || refuse "$current names $generation, which holds no data"
[ "$(cat "$data/PG_VERSION")" = "$major" ] || refuse "$generation holds data of major $(cat "$data/PG_VERSION"), this image has $major"

# One path for every generation: pgBackRest compares the path it is configured for with the one the server names.
running=/var/run/postgresql/data
ln -sfn "$data" "$running"

say "starting $generation"
exec postgres -D "$running" -c "config_file=${POSTGRES_CONFIG_FILE:-/etc/postgresql/postgresql.conf}" -c "data_directory=$running" "$@"

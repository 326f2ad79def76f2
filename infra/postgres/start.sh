# Makes the database where there is none, then becomes the server.
set -euo pipefail

# Made aside and moved, PG_VERSION last: what is killed on the way is begun anew, not taken for a database.
new=$PGDATA/new
if [[ ! -s $PGDATA/PG_VERSION ]]; then
  : "${POSTGRES_USER:?}" "${POSTGRES_DB:?}" "${POSTGRES_PASSWORD:?}"
  if [[ -d $new ]]; then
    find "$PGDATA" -mindepth 1 -maxdepth 1 ! -path "$new" -exec rm -rf {} +
    rm -rf "$new"
  elif [[ -n $(ls --almost-all "$PGDATA") ]]; then
    echo "$PGDATA holds something else than a database" >&2
    exit 1
  fi
  mkdir "$new"
  initdb --pgdata="$new" --username="$POSTGRES_USER" --pwfile=<(printf '%s\n' "$POSTGRES_PASSWORD") \
    --auth-local=trust --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
  echo "host all all all scram-sha-256" >> "$new/pg_hba.conf"
  if [[ $POSTGRES_DB != postgres ]]; then
    # Single-user mode: no server that could be taken for the one to come.
    echo "CREATE DATABASE \"$POSTGRES_DB\"" | postgres --single -D "$new" postgres >/dev/null
  fi
  find "$new" -mindepth 1 -maxdepth 1 ! -name PG_VERSION -exec mv --target-directory="$PGDATA" {} +
  mv "$new/PG_VERSION" "$PGDATA"
fi
rm -rf "$new"
exec postgres -c listen_addresses='*'

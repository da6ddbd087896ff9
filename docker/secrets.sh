#!/bin/sh
# Makes the secrets that compose.yml mounts, in docker/secrets/. What is there already is kept, so it can be run again.
# The Postgres volume keeps the passwords that it was made with: after deleting one here, `down -v` or ALTER ROLE.
set -eu
umask 077
cd "$(dirname "$0")"
# Compose mounts each file with its mode on this machine, and the service runs as 65532: the files are readable by all,
# the directory by its owner alone.
mkdir -p secrets
chmod 700 secrets
cd secrets

put() { # NAME VALUE; whole or not at all
  printf %s "$2" >"$1.new"
  chmod 444 "$1.new"
  mv -f "$1.new" "$1"
}
random() { # NAME
  if [ -s "$1" ]; then return; fi
  value=$(od -An -v -N32 -tx1 /dev/urandom | tr -d ' \n')
  [ ${#value} -eq 64 ]
  put "$1" "$value"
  echo "made docker/secrets/$1"
}

random postgres_password
random postgres_owner_password
random postgres_app_password
random signing_secret
random grafana_password
put migrate_url "postgres://cxda_owner:$(cat postgres_owner_password)@postgres:5432/cxone"
put database_url "postgres://cxda_app:$(cat postgres_app_password)@postgres:5432/cxone"

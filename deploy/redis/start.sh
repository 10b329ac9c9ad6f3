#!/bin/sh
# Starts Redis with three users: switchboard, which may do what switchboard.acl lists; admin, for operators; and probe, whose
# password is none and who may only PING. The passwords were made by deploy/secrets/make.sh; the ACL holds their hashes.
#
# The ACL is written at every start, so that a changed list is in force after a restart. Arguments go to redis-server.
set -eu

secrets=${SECRETS:-/run/secrets}
rules=${RULES:-/etc/switchboard/switchboard.acl}
users=/tmp/users.acl

hash() {
  sha256sum <"$secrets/$1" | cut -d ' ' -f 1
}

umask 077
{
  # Off: nobody can log in as it. Yet it may do everything, since Redis replays the transactions of the append-only file in
  # its name: with nothing allowed, Redis 8.0 drops them at a restart, and with them what scripts have written.
  echo "user default reset off ~* &* +@all"
  echo "user probe reset on nopass -@all +ping"
  echo "user admin reset on #$(hash redis-admin-password) ~* &* +@all"
  echo "user switchboard reset on #$(hash redis-password) $(grep -v '^#' "$rules" | tr '\n' ' ')"
} >"$users"

exec redis-server --bind '*' --protected-mode no --aclfile "$users" "$@"

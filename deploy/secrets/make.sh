#!/bin/sh
# Makes what must not be the same in two places, each secret once: what is there is kept. Runs as root, before the rest.
#
#   $SECRETS/node     jwt-secret, api-key, redis-url                   read by the group 10001, the nodes
#   $SECRETS/redis    redis-password, redis-admin-password             read by the group 999, Redis
#   $SECRETS/grafana  admin-password                                   read by the group 472, Grafana
#   $CONFIG          switchboard.toml, allowed-origins                 what the nodes are configured by besides their environment, read
#                                                                      by the group 10001; a profile may write more into it, later
#   $DATA/redis, $DATA/prometheus                                      given to who writes there
#
# $GIVEN/jwt-secret and $GIVEN/api-key, when they are not empty, replace what is there; else JWT_SECRET and API_KEY, when they are set. Files belong to root and can only be read by their group,
# so root needs no capability but CHOWN, and no service can change its own secrets.
set -eu
umask 077

secrets=${SECRETS:-/secrets}
config=${CONFIG:-/config}
data=${DATA:-/data}
given=${GIVEN:-/given}

# 256 random bits, as 64 hexadecimal digits: good in a URL and in a header.
random() {
  head -c 32 /dev/urandom | od -An -v -tx1 | tr -d ' \n'
}

# write FILE GROUP VALUE: whole or not at all, and readable by nobody else at any moment.
write() {
  printf '%s' "$3" >"$1.new"
  chown "0:$2" "$1.new"
  chmod 0440 "$1.new"
  mv "$1.new" "$1"
}

# once FILE GROUP [VALUE]: a value that is given replaces the file's; without one it is made up, if the file is not there.
once() {
  if [ -n "${3:-}" ]; then
    write "$1" "$2" "$3"
  elif [ ! -s "$1" ]; then
    write "$1" "$2" "$(random)"
    echo "made ${1#"$secrets/"}"
  fi
}

# given FILE VALUE: what the file holds, but for a line break at its end, or else the value.
given() {
  if [ -s "$given/$1" ]; then cat "$given/$1"; else printf '%s' "$2"; fi
}

node=10001 redis=999 grafana=472 prometheus=65534
once "$secrets/node/jwt-secret" $node "$(given jwt-secret "${JWT_SECRET:-}")"
once "$secrets/node/api-key" $node "$(given api-key "${API_KEY:-}")"
once "$secrets/redis/redis-password" $redis
once "$secrets/redis/redis-admin-password" $redis
once "$secrets/grafana/admin-password" $grafana
password=$(cat "$secrets/redis/redis-password")
write "$secrets/node/redis-url" $node "redis://switchboard:$password@redis:6379/0"

write "$config/allowed-origins" $node "${ORIGINS:-}"
write "$config/switchboard.toml" $node ""
chown 0:$node "$config"
chmod 0750 "$config"

for pair in node:$node redis:$redis grafana:$grafana; do
  chown "0:${pair#*:}" "$secrets/${pair%:*}"
  chmod 0750 "$secrets/${pair%:*}"
done
chown $redis:$redis "$data/redis"
chown $prometheus:$prometheus "$data/prometheus"

#!/bin/sh
# Makes the nodes of docker-compose.yml call the sample application, and gives that the secrets it needs. Runs as root, behind
# deploy/secrets/make.sh, which takes the former back where this does not run.
#
#   /node       jwt-secret, api-key         what the fleet has, read
#   /config     switchboard.toml, allowed-origins     read by the group 10001, the nodes
#   /example    jwt-secret, api-key, webhook-secret   read by the group 10002, the application
#
# ORIGINS: pages that may connect besides the application's own, which are those of PAGE.
set -eu
umask 077

# write FILE GROUP VALUE: whole or not at all.
write() {
  printf '%s' "$3" >"$1.new"
  chown "0:$2" "$1.new"
  chmod 0440 "$1.new"
  mv "$1.new" "$1"
}

[ -s /example/webhook-secret ] || write /example/webhook-secret 10002 "whsec_$(head -c 32 /dev/urandom | base64 | tr -d '\n')"
for name in jwt-secret api-key; do
  write "/example/$name" 10002 "$(cat "/node/$name")"
done
chown 0:10002 /example
chmod 0750 /example

write /config/allowed-origins 10001 "$PAGE,$ORIGINS"
write /config/switchboard.toml 10001 "[presence]
watch = \"claim\"

[[backends]]
name = \"chat\"
url = \"http://example:8000/switchboard\"
events = [\"chat:*\"]
secret = \"$(cat /example/webhook-secret)\"
"

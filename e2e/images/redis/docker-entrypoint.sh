#!/bin/sh
# As the official image's: options alone mean redis-server, and root becomes redis.
set -e
case "$1" in
  -* | *.conf) set -- redis-server "$@" ;;
esac
if [ "$1" = redis-server ]; then
  # The official server is built without protected mode, Debian's refuses other hosts.
  set -- "$@" --protected-mode no
  if [ "$(id -u)" = 0 ]; then
    set -- setpriv --reuid=redis --regid=redis --clear-groups -- "$@"
  fi
fi
exec "$@"

#!/bin/sh
# gpuvox with the loops that were compiled while the image was built. A cache of compiled code is used only by a user who
# can write to it while nobody else can; therefore each user has a copy, in the home folder or else in a new folder.
image=/opt/gpuvox-cache
caches="${XDG_CACHE_HOME:-${HOME:-/}/.cache}"
mkdir -p "$caches" 2>/dev/null && [ -w "$caches" ] || caches="$(mktemp -d)"
export NUMBA_CACHE_DIR="$caches/$(cat "$image/version")"
if [ ! -d "$NUMBA_CACHE_DIR" ]; then
    # The name appears when the copy is complete, so that jobs can start at the same time.
    copy="$(mktemp -d "$caches/gpuvox.XXXXXX")"
    cp -R "$image/." "$copy" && mv -T "$copy" "$NUMBA_CACHE_DIR" 2>/dev/null || rm -rf "$copy"
fi
exec gpuvox "$@"

# SPDX-License-Identifier: Apache-2.0
#
# Sourced by examples/run.sh and tests/run.sh.

# ensure_packages <yes|no> <Debian package>...: installs those that are missing, as root or through
# sudo; with "no" only names them. Fails, saying what to do, where it cannot. What apt prints is
# shown only then.
ensure_packages() {
  local install=$1 package log status missing=() as_root=()
  shift
  if ! command -v dpkg-query > /dev/null; then
    echo "not a Debian system; this needs what Debian calls: $*"
    return 0
  fi
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null | grep -qx installed ||
      missing+=("$package")
  done
  if [ ${#missing[@]} -eq 0 ]; then return 0; fi
  echo "missing packages: ${missing[*]}"
  if [ "$install" = no ]; then
    echo "going on without them, as asked; CMake will say what it cannot do without"
    return 0
  fi
  if [ "$(id -u)" -ne 0 ]; then as_root=(sudo); fi
  local problem="Could not install them."
  if ! command -v "${as_root[0]:-apt-get}" > /dev/null; then
    problem="Not root, and no sudo here."
  else
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0)
    echo "installing them with apt-get; a minute or two"
    log=$(mktemp)
    {
      "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "${missing[@]}"
    } > "$log" 2>&1
    status=$?
    if [ $status -ne 0 ]; then cat "$log"; fi
    rm -f "$log"
    if [ $status -eq 0 ]; then return 0; fi
  fi
  printf '\n%s Ask an administrator to run\n  apt-get update && apt-get install -y %s\n' \
    "$problem" "--no-install-recommends ${missing[*]}"
  printf 'and start again, or go on without them with --no-install.\n'
  return 1
}

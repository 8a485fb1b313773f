#!/usr/bin/env bash
# layout.sh install | uninstall: what belongs where, for "make install" and for
# the packages alike. From the environment:
#   PREFIX   /usr/local, where it will run from      DESTDIR   put in front while copying
#   BIN      bin/gvtep, the program to install       TOOL      bin/gvtep, one that runs here
#   ZSHDIR   PREFIX/share/zsh/site-functions         MANDIR    bin/man, the pages that "make man" made
# Configurations in /etc/gvtep are the user's: neither verb touches them.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${PREFIX:=/usr/local}" "${DESTDIR:=}" "${BIN:=bin/gvtep}" "${TOOL:=bin/gvtep}" "${MANDIR:=bin/man}"
: "${ZSHDIR:=$PREFIX/share/zsh/site-functions}"
doc=$PREFIX/share/doc/gvtep
shopt -s nullglob

# each calls "$1 MODE SOURCE TARGET" for every file. SOURCE may be a command in
# brackets that prints it.
each() {
  local f
  "$1" 0755 "$BIN" "$PREFIX/bin/gvtep"
  "$1" 0644 "[unit]" "$PREFIX/lib/systemd/system/gvtep@.service"
  "$1" 0644 scripts/systemd/gvtep.sysusers "$PREFIX/lib/sysusers.d/gvtep.conf"
  "$1" 0644 "[$TOOL completion bash]" "$PREFIX/share/bash-completion/completions/gvtep"
  "$1" 0644 "[$TOOL completion zsh]" "$ZSHDIR/_gvtep"
  "$1" 0644 "[$TOOL completion fish]" "$PREFIX/share/fish/vendor_completions.d/gvtep.fish"
  for f in README.md docs/*.md; do "$1" 0644 "$f" "$doc/$f"; done
  for f in config/examples/*.toml scripts/systemd/drop-in/*.conf scripts/monitoring/*.{yml,json}; do "$1" 0644 "$f" "$doc/examples/${f##*/}"; done
  for f in "$MANDIR"/*.[1-8]; do "$1" 0644 "[gzip -9nc $f]" "$PREFIX/share/man/man${f##*.}/${f##*/}.gz"; done
}

unit() { sed "s|/usr/bin/gvtep|$PREFIX/bin/gvtep|" scripts/systemd/gvtep@.service; }

put() {
  local to=$DESTDIR$3
  mkdir -p "${to%/*}"
  case $2 in
  "["*) # shellcheck disable=SC2086 # a command and its words
    ${2:1:-1} >"$to.new" && chmod "$1" "$to.new" && mv -f "$to.new" "$to" ;;
  *) install -m "$1" "$2" "$to" ;;
  esac
}

drop() {
  local dir=$DESTDIR${3%/*}
  rm -f "$DESTDIR$3"
  # Directories that were made for nothing else go as well.
  while [[ $dir == "$DESTDIR$doc"* ]] && rmdir "$dir" 2>/dev/null; do dir=${dir%/*}; done
}

# Without them everything would look well but "man gvtep".
[ -n "$(compgen -G "$MANDIR/*.[1-8]")" ] || { echo "layout.sh: no manual pages in $MANDIR: make man" >&2; exit 1; }
umask 022
case ${1:-} in
install) each put ;;
uninstall) each drop ;;
*) echo "usage: layout.sh install|uninstall" >&2; exit 1 ;;
esac

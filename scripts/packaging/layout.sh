#!/usr/bin/env bash
# layout.sh install | uninstall: what belongs where, for "make install" and for
# the packages alike. From the environment:
#   PREFIX   /usr/local, where it will run from      DESTDIR   put in front while copying
#   BIN      bin, with the programs to install       TOOL      bin/gvtep, one that runs here
#   ZSHDIR   PREFIX/share/zsh/site-functions         MANDIR    bin/man, the pages that "make man" made
#   PACKAGES "gvtep gvtep-evpn", of which the files
# Configurations in /etc/gvtep are the user's: neither verb touches them.
set -euo pipefail
cd "$(dirname "$0")/../.."
: "${PREFIX:=/usr/local}" "${DESTDIR:=}" "${BIN:=bin}" "${TOOL:=bin/gvtep}" "${MANDIR:=bin/man}"
: "${PACKAGES:=gvtep gvtep-evpn}" "${ZSHDIR:=$PREFIX/share/zsh/site-functions}"
doc=$PREFIX/share/doc/gvtep
shopt -s nullglob

# each calls "$1 MODE SOURCE TARGET" for every file. SOURCE may be a command in
# brackets that prints it.
each() {
  local p
  for p in $PACKAGES; do "files_of_$p" "$1"; done
}

files_of_gvtep() {
  local f
  program "$1" gvtep gvtep.8 gvtep.toml.5
  "$1" 0644 scripts/systemd/gvtep.sysusers "$PREFIX/lib/sysusers.d/gvtep.conf"
  "$1" 0644 "[$TOOL completion bash]" "$PREFIX/share/bash-completion/completions/gvtep"
  "$1" 0644 "[$TOOL completion zsh]" "$ZSHDIR/_gvtep"
  "$1" 0644 "[$TOOL completion fish]" "$PREFIX/share/fish/vendor_completions.d/gvtep.fish"
  for f in README.md docs/*.md; do "$1" 0644 "[page $f]" "$doc/$f"; done
  for f in config/examples/*.toml scripts/systemd/drop-in/*.conf scripts/monitoring/*.{yml,json}; do "$1" 0644 "$f" "$doc/examples/${f##*/}"; done
}

files_of_gvtep-evpn() { program "$1" gvtep-evpn gvtep-evpn.8; }

# program VERB NAME PAGE...: the program, its unit and its manual.
program() {
  local f
  "$1" 0755 "$BIN/$2" "$PREFIX/bin/$2"
  "$1" 0644 "[unit $2]" "$PREFIX/lib/systemd/system/$2@.service"
  for f in "${@:3}"; do "$1" 0644 "[gzip -9nc $MANDIR/$f]" "$PREFIX/share/man/man${f##*.}/$f.gz"; done
}

# page prints a page whose links lead to what is installed.
page() { sed 's|](\.\./scripts/systemd/drop-in/|](../examples/|g' "$1"; }

unit() { sed "s|/usr/bin/gvtep|$PREFIX/bin/gvtep|" "scripts/systemd/$1@.service"; }

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
for page in gvtep.8 gvtep.toml.5 gvtep-evpn.8; do
  [ -e "$MANDIR/$page" ] || { echo "layout.sh: no $page in $MANDIR: make man" >&2; exit 1; }
done
umask 022
case ${1:-} in
install) each put ;;
uninstall) each drop ;;
*) echo "usage: layout.sh install|uninstall" >&2; exit 1 ;;
esac

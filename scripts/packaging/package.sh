#!/usr/bin/env bash
# package.sh deb|rpm|tarball|release: packages of what is checked out here, in dist/:
# gvtep and gvtep-evpn, or a tarball of both.
# release is all three for each of ARCHES, and SHA256SUMS of what is in dist/ then.
# The same commit gives the same bytes, and what git says of the tree is in no file but by VERSION. From the environment:
#   ARCH     the Go toolchain's word: amd64, arm64      ARCHES   "amd64 arm64"
#   VERSION  1.2.3; else version.sh knows               DIST     dist
#   SOURCE_DATE_EPOCH  the time of every file, in seconds; else the commit's
set -euo pipefail
cd "$(dirname "$0")/../.."
GO=${GO:-go} NFPM=github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.43.0
: "${ARCH:=$($GO env GOHOSTARCH)}" "${ARCHES:=amd64 arm64}" "${DIST:=dist}"
: "${VERSION:=$(scripts/packaging/version.sh)}"
: "${SOURCE_DATE_EPOCH:=$(git log -1 --format=%ct)}"
VERSION=${VERSION#v}
export ARCH VERSION SOURCE_DATE_EPOCH ROOT NEEDS
umask 022
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# layout PREFIX DIR [VARIABLE=VALUE]...: everything for ARCH as it will be below PREFIX.
layout() {
  local prefix=$1 dir=$2
  shift 2
  [ -e "$work/bin-$ARCH" ] ||
    CGO_ENABLED=0 GOARCH=$ARCH $GO build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=v$VERSION" -o "$work/bin-$ARCH/" ./cmd/gvtep ./cmd/gvtep-evpn
  env PREFIX="$prefix" DESTDIR="$dir" BIN="$work/bin-$ARCH" "$@" scripts/packaging/layout.sh install
}

nfpm() { # nfpm FORMAT PACKAGE
  local config=scripts/packaging/nfpm.yaml
  [ "$2" = gvtep ] || config=scripts/packaging/${2#gvtep-}/nfpm.yaml
  echo "$DIST: $1 of $2 $VERSION for $ARCH"
  GOFLAGS=-mod=mod $GO run "$NFPM" package --config "$config" --packager "$1" --target "$DIST/" >"$work/log" ||
    { cat "$work/log" >&2; return 1; }
}

deb() {
  local p doc
  # As the packager writes it: what stands behind the first dash is before this version.
  NEEDS="gvtep (>= ${VERSION/-/\~})"
  for p in gvtep gvtep-evpn; do
    ROOT=$work/deb-$ARCH-$p doc=$work/deb-$ARCH-$p/usr/share/doc/$p
    layout /usr "$ROOT" PACKAGES=$p ZSHDIR=/usr/share/zsh/vendor-completions
    mkdir -p "$doc"
    { # DEP-5, with the whole licence below: Debian wants it under this name
      printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\n'
      printf 'Copyright: the authors of gvtep\nLicense: Apache-2.0\n'
      printf ' On Debian systems the licence is in /usr/share/common-licenses/Apache-2.0.\n'
    } >"$doc/copyright"
    gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
    nfpm deb $p
  done
}

rpm() {
  local p needs=${VERSION/-/\~}
  NEEDS="gvtep >= ${needs//-/_}"
  for p in gvtep gvtep-evpn; do
    ROOT=$work/rpm-$ARCH-$p
    layout /usr "$ROOT" PACKAGES=$p
    install -D -m 0644 LICENSE "$ROOT/usr/share/licenses/$p/LICENSE"
    install -D -m 0644 CHANGELOG.md "$ROOT/usr/share/doc/$p/CHANGELOG.md"
    nfpm rpm $p
  done
}

# To be unpacked by: tar -C /usr/local --strip-components=1 -xf FILE
tarball() {
  local name=gvtep-$VERSION-linux-$ARCH
  echo "$DIST: tarball of $VERSION for $ARCH"
  layout /usr/local "$work/tar-$ARCH"
  mv "$work/tar-$ARCH/usr/local" "$work/$name"
  install -m 0644 LICENSE CHANGELOG.md "$work/$name/share/doc/gvtep/"
  tar -C "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --format=gnu -cf - "$name" |
    gzip -9n >"$DIST/$name.tar.gz"
}

mkdir -p "$DIST"
case ${1:-} in
deb | rpm | tarball) "$1" ;;
release)
  rm -f "$DIST"/gvtep[-_]* "$DIST/SHA256SUMS"
  for ARCH in $ARCHES; do deb && rpm && tarball; done
  (cd "$DIST" && sha256sum gvtep[-_]* >SHA256SUMS) ;;
*) echo "usage: package.sh deb|rpm|tarball|release" >&2; exit 1 ;;
esac

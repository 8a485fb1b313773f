#!/usr/bin/env bash
# What is in the packages and what is not, for every architecture; that they are
# static and say their version; that two builds give the same bytes.
set -euo pipefail
cd "$(dirname "$0")/../.."
[ "$(id -u)" = 0 ] || { echo "packages: another host name takes root: sudo $0" >&2; exit 1; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
complain() { printf 'packages: %s\n' "$*" >&2; failed=1; }
same() { diff -u --label "wanted: $1" --label "is: $1" "$2" "$3" || complain "$1: not what it should be"; }

# The second is made elsewhere, later, by another umask and on another host, from
# a copy of what the first was made of.
version=1.2.3
export VERSION=$version SOURCE_DATE_EPOCH=1700000000 TOOL=$PWD/bin/gvtep MANDIR=$PWD/bin/man
DIST=$work/a scripts/packaging/package.sh release
mkdir "$work/elsewhere"
git ls-files -z --cached --others --exclude-standard | while IFS= read -r -d '' f; do
  [ ! -e "$f" ] || cp --parents "$f" "$work/elsewhere"
done
(umask 077 && cd "$work/elsewhere" && DIST=$work/b TZ=Asia/Tokyo LC_ALL=C unshare --uts bash -c 'hostname elsewhere && scripts/packaging/package.sh release')
same "two builds" "$work/a/SHA256SUMS" "$work/b/SHA256SUMS"
(cd "$work/a" && sha256sum --quiet -c SHA256SUMS)
same "SHA256SUMS" <(cd "$work/a" && find . -type f ! -name SHA256SUMS -printf '%P\n' | sort) <(cut -c67- "$work/a/SHA256SUMS" | sort)

# The list: what "make install PREFIX=/usr" makes, and what each packager adds.
PREFIX=/usr DESTDIR=$work/usr scripts/packaging/layout.sh install
tree() { (cd "$1" && find . -type f -printf '-%m /%P\n' -o -mindepth 1 -type d -printf 'd%m /%P\n'); }
# listing FORMAT: "-644 /path", with the owner where it is not root
deblist() { dpkg-deb --fsys-tarfile "$1" | tar -tv --numeric-owner | awk '
  function digit(s) { return (s ~ /^r/) * 4 + (substr(s, 2, 1) == "w") * 2 + (substr(s, 3, 1) == "x") }
  { sub(/^\.\//, "/", $6); sub(/\/$/, "", $6)
    if ($6 != "") print substr($1, 1, 1) digit(substr($1, 2)) digit(substr($1, 5)) digit(substr($1, 8)), $6 ($2 == "0/0" ? "" : " of " $2) }'; }
rpmlist() { rpm -qp --qf '[%{FILEMODES:perms} %{FILENAMES} %{FILEUSERNAME}/%{FILEGROUPNAME}\n]' "$1" 2>/dev/null | awk '
  function digit(s) { return (s ~ /^r/) * 4 + (substr(s, 2, 1) == "w") * 2 + (substr(s, 3, 1) == "x") }
  { print substr($1, 1, 1) digit(substr($1, 2)) digit(substr($1, 5)) digit(substr($1, 8)), $2 ($3 == "root/root" ? "" : " of " $3) }'; }
etc='d755 /etc/gvtep
-640 /etc/gvtep/example.toml'
evpn='/usr/bin/gvtep-evpn|/usr/lib/systemd/system/gvtep-evpn@.service|/usr/share/man/man8/gvtep-evpn.8.gz'
tree "$work/usr" | sort >"$work/installed"
grep -vE " ($evpn)\$" "$work/installed" >"$work/installed-gvtep"
# Of directories those that are above its files.
{ grep -E " ($evpn)\$" "$work/installed" && printf 'd755 %s\n' /usr{,/bin,/lib{,/systemd{,/system}},/share{,/man{,/man8}}}; } | sort >"$work/installed-gvtep-evpn"
for f in bin/gvtep bin/gvtep-evpn lib/systemd/system/gvtep{,-evpn}@.service share/man/man8/gvtep{,-evpn}.8.gz lib/sysusers.d/gvtep.conf share/bash-completion/completions/gvtep \
  share/zsh/site-functions/_gvtep share/fish/vendor_completions.d/gvtep.fish share/doc/gvtep/examples/p2p.toml; do
  [ -s "$work/usr/usr/$f" ] || complain "make install: no $f"
done

elf() { # elf FILE ARCH WHERE: one static program of this kind
  case $2 in amd64) kind=3e00 ;; arm64) kind=b700 ;; esac
  [ "$(od -An -tx1 -j18 -N2 "$1" | tr -d ' \n')" = "$kind" ] || complain "$3: not a program for $2"
  ! LC_ALL=C grep -aq '/ld-linux' "$1" || complain "$3: not static"
  LC_ALL=C grep -aqF "v$version" "$1" || complain "$3: does not know its version"
}

for arch in amd64 arm64; do
  case $arch in amd64) machine=x86_64 ;; arm64) machine=aarch64 ;; esac
  for p in gvtep gvtep-evpn; do
    if [ $p = gvtep ]; then
      own=$etc conffiles=/etc/gvtep/example.toml above="d755 /etc"
    else
      own="" conffiles="" above=$(printf 'd755 %s\n' /usr/share/doc{,/$p})
    fi
    deb=$work/a/${p}_$version-1_$arch.deb
    same "$arch $p deb, files" <({ sed 's|/share/zsh/site-functions|/share/zsh/vendor-completions|' "$work/installed-$p"
      printf '%s\n' "$own" "$above" "-644 /usr/share/doc/$p/"{changelog.gz,copyright}; } | grep . | sort) <(deblist "$deb" | sort)
    tree=$work/deb-$arch-$p control=$work/control-$arch-$p
    dpkg-deb -x "$deb" "$tree"
    elf "$tree/usr/bin/$p" $arch "$deb"
    dpkg-deb -e "$deb" "$control"
    same "$arch $p deb, control" <(printf '%s\n' "Package: $p" "Version: $version-1" "Architecture: $arch" "Section: net" "Priority: optional"
      [ $p = gvtep ] || echo "Depends: gvtep (>= $version)") <(for k in Package Version Architecture Section Priority Depends; do grep "^$k:" "$control/control"; done)
    same "$arch $p deb, conffiles" <(echo "$conffiles" | grep .) <(grep -s . "$control/conffiles")
    (cd "$tree" && md5sum --quiet -c "$control/md5sums") || complain "$arch $p deb: md5sums are wrong"
    for s in postinst prerm postrm; do
      if [ ! -x "$control/$s" ] || ! sh -n "$control/$s"; then complain "$arch $p deb: $s is no program"; fi
    done
    # As lintian would have it: a synopsis under 80 characters that starts with no article, no line over 80.
    awk '/^Description:/ { on = 1; if (length > 93 || /: (A|An|The) /) print "synopsis: " $0 } on && length > 81' "$control/control" |
      grep . && complain "$arch $p deb: its description"

    rpm=$work/a/$p-$version-1.$machine.rpm
    rpmlist "$rpm" | sort >"$work/rpm.list"
    same "$arch $p rpm, files" <({ grep '^-' "$work/installed-$p"
      printf '%s\n' "$own" "-644 /usr/share/doc/$p/CHANGELOG.md" "-644 /usr/share/licenses/$p/LICENSE"; } | grep . | sort) \
      <(grep -e '^-' -e '/etc/gvtep$' "$work/rpm.list")
    same "$arch $p rpm, header" <(echo "$p $version 1 $machine Apache-2.0 linux") \
      <(rpm -qp --qf '%{NAME} %{VERSION} %{RELEASE} %{ARCH} %{LICENSE} %{OS}\n' "$rpm" 2>/dev/null)
    same "$arch $p rpm, configuration" <(echo "$conffiles" | grep .) <(rpm -qpc "$rpm" 2>/dev/null)
    same "$arch $p rpm, requires" <([ $p = gvtep ] || echo "gvtep >= $version") <(rpm -qpR "$rpm" 2>/dev/null | grep -v -e '^rpmlib(' -e '^/bin/sh$')
    mkdir "$work/rpm-$arch-$p"
    rpm -K --nosignature "$rpm" | grep -q "digests OK$" || complain "$arch $p rpm: digests"
    rpm2cpio "$rpm" >"$work/cpio" || true # compares with a size that nfpm counts otherwise
    (cd "$work/rpm-$arch-$p" && cpio -idm --no-absolute-filenames <"$work/cpio" 2>/dev/null)
    cmp "$work/rpm-$arch-$p/usr/bin/$p" "$tree/usr/bin/$p" || complain "$arch: deb and rpm have different programs"
  done

  tarball=$work/a/gvtep-$version-linux-$arch.tar.gz
  tar -C "$work" -xf "$tarball"
  same "$arch tarball, files" <({ sed -n 's| /usr/| |p' "$work/installed"
    printf '%s\n' "-644 share/doc/gvtep/"{CHANGELOG.md,LICENSE}; } | sort) <(tree "$work/gvtep-$version-linux-$arch" | sed 's| /| |' | sort)
  for p in gvtep gvtep-evpn; do
    elf "$work/gvtep-$version-linux-$arch/bin/$p" $arch "$tarball"
    grep -q "^ExecStart=/usr/local/bin/$p run " "$work/gvtep-$version-linux-$arch/lib/systemd/system/$p@.service" ||
      complain "$arch tarball: the unit of $p starts another program"
  done
  [ "$(tar -tvf "$tarball" --numeric-owner --utc | awk '{ print $2, $4 }' | sort -u)" = "0/0 2023-11-14" ] || complain "$arch tarball: owners or times"
done
arch=$(go env GOHOSTARCH)
for p in gvtep gvtep-evpn; do
  [ "$("$work/deb-$arch-$p/usr/bin/$p" version -j | sed 's/.*"version":"\([^"]*\)".*/\1/')" = v$version ] || complain "the packaged $p says another version"
done

# dpkg configures the second only with the first, and the units are right where they are then.
root=$work/root
mkdir -p "$root/var/lib/dpkg/"{updates,info}
: >"$root/var/lib/dpkg/status"
installs() { dpkg --root="$root" "$@" >"$work/log" 2>&1; }
unpack() { installs --unpack "$work/a/$1_$version-1_$arch.deb" || complain "dpkg does not take $1: $(cat "$work/log")"; }
unpack gvtep-evpn
if installs --no-act --configure -a || ! grep -q 'gvtep-evpn depends on gvtep (>= ' "$work/log"; then complain "gvtep-evpn installs without gvtep"; fi
unpack gvtep
installs --no-act --configure -a || complain "both do not install: $(cat "$work/log")"
for p in gvtep gvtep-evpn; do
  sed -e "s|/usr/bin/|$root&|" -e 's/^Documentation=man:/#&/' "$root/usr/lib/systemd/system/$p@.service" >"$work/$p@.service"
  wrong=$(systemd-analyze verify "$work/$p@.service" 2>&1) || true
  [ -z "$wrong" ] || complain "the unit of $p: $wrong"
done

# Versions sort as they should, and uninstall takes back what install brought.
dpkg --compare-versions 1.2.3~0.20261122080509-33ef2f7a9ac5-1 lt 1.2.3-1 || complain "a version before 1.2.3 sorts after it"
PREFIX=/usr DESTDIR=$work/usr scripts/packaging/layout.sh uninstall
if [ -n "$(find "$work/usr" -type f)" ] || [ -e "$work/usr/usr/share/doc/gvtep" ]; then complain "make uninstall leaves something behind"; fi

[ $failed = 0 ] || exit 1
echo "packages: ok"
find "$work/a" -type f -printf '  %s %f\n' | sort -k 2

# shellcheck shell=bash disable=SC2154
# To be sourced: virtual machines with Debian in their memory, made of Debian's
# packages once and kept in ${XDG_CACHE_HOME:-~/.cache}/gvtep. Who sources this sets
#   NAME      of the image
#   packages  of Debian, with commas between them
#   modules   of the kernel: files without .ko, or directories, below .../kernel
#   kernels   suites that they come from; the first is "", the suite of all else
# and has a function populate ROOT, which ends with what makes the root file system start,
# and begins with install_kernels ROOT. "$0 populate ROOT" must call it: mmdebstrap does,
# with apt set up for that file system.
# MIRROR is the archive if set. ACCEL=kvm instead of tcg is faster where nested KVM works; that /dev/kvm
# opens and makes a machine does not mean that the machine ever runs, so it is not guessed.
SUITE=bookworm ACCEL=${ACCEL:-tcg}
without=(/usr/share/{doc,man,locale,i18n,zoneinfo,info,lintian} /usr/lib/x86_64-linux-gnu/gconv)
fail() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }
work= # removed at the end, with --one-file-system: a file system half made has /proc and /sys mounted in it

# install_kernels ROOT: the modules there, and each kernel as $KERNELS/vmlinuz-6.1.
install_kernels() {
  local root=$1 dir release suite m
  export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG # that of the new file system, with its sources
  for suite in "${kernels[@]}"; do
    dir=$(mktemp -d)
    release=$(apt-cache ${suite:+-o "APT::Default-Release=$suite"} depends linux-image-cloud-amd64 | sed -n 's/^ *Depends: linux-image-//p')
    (cd "$dir" && apt-get -o APT::Sandbox::User=root download "linux-image-$release" && dpkg-deb -x ./*.deb .)
    cp "$dir/boot/vmlinuz-$release" "$KERNELS/vmlinuz-$(grep -oE '^[0-9]+\.[0-9]+' <<<"$release")"
    for m in "${modules[@]}"; do
      m=lib/modules/$release/kernel/$m
      [ ! -d "$dir/$m" ] || { mkdir -p "$root/$m" && cp -r "$dir/$m/." "$root/$m"; }
      [ -d "$dir/$m" ] || install -D -m 0644 "$dir/$m.ko" "$root/$m.ko" 2>/dev/null ||
        install -D -m 0644 "$dir/$m.ko.xz" "$root/$m.ko.xz"
    done
    cp "$dir/lib/modules/$release/"modules.{order,builtin,builtin.modinfo} "$root/lib/modules/$release/"
    chroot "$root" depmod "$release"
    rm -r "$dir"
  done
}

# image sees to it that $cache holds the kernels and the file system: as an
# initramfs it needs no disk, no driver and no loader.
image() {
  cache=${XDG_CACHE_HOME:-$HOME/.cache}/gvtep/$NAME-$({ declare -f populate install_kernels image; declare -p packages without modules kernels SUITE; } | sha256sum | cut -c-12)
  if [ -e "$cache/root.cpio" ]; then
    touch "$cache" # in use
    return
  fi
  [ "$(id -u)" = 0 ] || fail "making the image takes root"
  echo "${0##*/}: making the image, once: $cache"
  mkdir -p "${cache%/*}"
  work=$(mktemp -d "${cache%/*}/new.XXXXXX")
  local options=() path proxy suite
  for path in "${without[@]}"; do options+=("--dpkgopt=path-exclude=$path/*"); done
  for suite in "${kernels[@]}"; do
    [ -z "$suite" ] || options+=("--setup-hook=echo deb ${MIRROR:-http://deb.debian.org/debian} $suite main >\"\$1/etc/apt/sources.list.d/$suite.list\"")
  done
  proxy=$(apt-config dump --format '%v%n' Acquire::http::Proxy)
  [ -z "$proxy" ] || options+=("--aptopt=Acquire::http::Proxy \"$proxy\"")
  KERNELS=$work timeout 1500 mmdebstrap --quiet --variant=essential --include="$packages" "${options[@]}" \
    --customize-hook="$(realpath "$0") populate \"\$1\"" "$SUITE" "$work/root" ${MIRROR:+"$MIRROR"} >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; fail "could not make the image"; }
  rm -rf "$work/root/var/cache/apt" "$work/root/var/lib/apt/lists" "$work/root"/{boot,dev}/*
  mknod -m 600 "$work/root/dev/console" c 5 1
  (cd "$work/root" && find . | cpio -o -H newc --quiet) >"$work/root.cpio"
  rm -rf "$work/root"
  # Of earlier recipes, but not one that another work tree may be using.
  find "${cache%/*}" -maxdepth 1 -name "$NAME-*" -mtime +3 -exec rm -r {} +
  rm -rf "$cache"
  mv "$work" "$cache"
  work=
}

# machine LIMIT KERNEL [QEMU-OPTION...]: run it for LIMIT seconds at most, with what is below $work/more
# laid over the image.
machine() {
  (cd "$work/more" && find . | cpio -o -H newc --quiet -R 0:0) >"$work/more.cpio"
  cat "$cache/root.cpio" "$work/more.cpio" >"$work/initrd"
  timeout -k 5 "$1" qemu-system-x86_64 -accel "$ACCEL" -cpu "$([ "$ACCEL" = kvm ] && echo host || echo max)" \
    -smp 2 -m 1536 -nodefaults -no-user-config -display none -no-reboot \
    -kernel "$cache/vmlinuz-$2" -initrd "$work/initrd" "${@:3}"
}

# checked LIMIT KERNEL [WORD...]: run it, with its second serial line printed as it comes, and fail unless
# that ends with the line of checks that all held. WORDs are for the kernel's command line.
checked() {
  local status=0 limit=$1 results=$work/results
  : >"$results"
  tail -f "$results" &
  # shellcheck disable=SC2064 # of now
  trap "kill $!; rm -rf --one-file-system '$work'" EXIT
  machine "$limit" "$2" -append "console=ttyS0 panic=-1 quiet ${*:3}" -serial "file:$work/console" -serial "file:$results" </dev/null || status=$?
  sleep 1 # for tail
  if [ $status != 0 ] || ! tr -d '\r' <"$results" | tail -n 1 | grep -qx 'end: [1-9][0-9]* checks, 0 failed'; then
    [ $status != 124 ] || echo "${0##*/}: the machine was not done after $limit s"
    printf '\n### the last lines of its console\n'
    tail -n 20 "$work/console"
    fail "not all is well, see above"
  fi
}

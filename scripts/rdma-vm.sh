#!/usr/bin/env bash
# rdma-vm.sh COMMAND...: runs a command in a virtual machine that has two RDMA devices, rxe0 and rxe1 (soft-RoCE), with
# this machine's files as they are, for reading only. Runs in this folder, as root; its exit status is the command's.
#
# The machine is emulated in software, so that this runs anywhere; WEIGHTCAST_VM_ACCELERATOR=kvm if there is KVM. What is
# downloaded and unpacked stays in WEIGHTCAST_CACHE, by default ~/.cache/weightcast.
set -euo pipefail
here=$PWD
scripts=$(cd "$(dirname "$0")" && pwd)
cache=${WEIGHTCAST_CACHE:-$HOME/.cache/weightcast}/rdma-vm
seconds=${WEIGHTCAST_VM_SECONDS:-600}
mkdir -p "$cache"

install_missing() {
  local missing=()
  command -v qemu-system-x86_64 >/dev/null || missing+=(qemu-system-x86)
  [ -x /bin/busybox ] && file_is_static /bin/busybox || missing+=(busybox-static)
  command -v depmod >/dev/null || [ -x /sbin/depmod ] || missing+=(kmod)
  command -v cpio >/dev/null || missing+=(cpio)
  command -v ip >/dev/null || [ -x /sbin/ip ] || missing+=(iproute2)
  command -v rdma >/dev/null || [ -x /sbin/rdma ] || missing+=(iproute2)
  compgen -G '/usr/lib/*/libibverbs/librxe-rdmav*.so' >/dev/null || missing+=(ibverbs-providers)
  [ ${#missing[@]} -eq 0 ] && return
  bash "$scripts/apt-install.sh" "${missing[@]}"
}

file_is_static() { ! ldd "$1" >/dev/null 2>&1; }

# A Debian kernel, whole, in $cache/kernel. Its package is not installed, only unpacked.
fetch_kernel() {
  [ -e "$cache/kernel/complete" ] && return
  local package work
  package=$(apt-cache search --names-only '^linux-image-6\.[0-9.]+-[0-9]+-amd64$' | cut -d' ' -f1 | sort -V | tail -1)
  if [ -z "$package" ]; then
    bash "$scripts/apt-install.sh"
    package=$(apt-cache search --names-only '^linux-image-6\.[0-9.]+-[0-9]+-amd64$' | cut -d' ' -f1 | sort -V | tail -1)
  fi
  [ -n "$package" ] || { echo "there is no linux-image-6.*-amd64 package here" >&2; exit 1; }
  echo "fetching $package"
  work=$(mktemp -d "$cache/fetch.XXXXXX")
  chmod 755 "$work"
  (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$package" && dpkg-deb --fsys-tarfile ./*.deb | tar x)
  PATH=$PATH:/sbin depmod -b "$work" "$(ls "$work/lib/modules")"
  rm -f "$work"/*.deb
  touch "$work/complete"
  rm -rf "$cache/kernel"
  mv "$work" "$cache/kernel"
}

# The guest's first file system: busybox, the modules it needs in the order in which they go in, and its first process.
make_base() {
  local modules root
  modules=$(ls -d "$cache"/kernel/lib/modules/*)
  [ "$cache/base.cpio.gz" -nt "$scripts/rdma-vm-init.sh" ] && [ "$cache/base.cpio.gz" -nt "$0" ] && return
  root=$(mktemp -d)
  mkdir -p "$root"/{bin,proc,sys,dev,host,modules}
  cp /bin/busybox "$root/bin/"
  install -m 755 "$scripts/rdma-vm-init.sh" "$root/init"
  for wanted in rdma_rxe ib_uverbs dummy crc32_generic virtio_pci 9pnet_virtio 9p; do
    PATH=$PATH:/sbin modprobe -S "$(basename "$modules")" -d "$cache/kernel" --show-depends "$wanted" |
      awk '$1 == "insmod" {print $2}'
  done | awk '!seen[$0]++' | while read -r module; do
    cp "$module" "$root/modules/"
    basename "$module" >>"$root/modules/order"
  done
  (cd "$root" && find . | cpio -o -H newc --quiet | gzip -1 >"$cache/base.cpio.gz.$$")
  mv "$cache/base.cpio.gz.$$" "$cache/base.cpio.gz"
  rm -rf "$root"
}

install_missing
fetch_kernel
make_base

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir "$scratch/root"
{
  printf 'cd %q\n' "$here"
  printf 'export PATH=%q HOME=/run TMPDIR=/run CI=%q\n' "$PATH:/sbin:/usr/sbin" "${CI:-}"
  printf '%q ' "$@"
} >"$scratch/root/job"
(cd "$scratch/root" && echo job | cpio -o -H newc --quiet | gzip -1) | cat "$cache/base.cpio.gz" - >"$scratch/initrd"

timeout "$seconds" qemu-system-x86_64 -accel "${WEIGHTCAST_VM_ACCELERATOR:-tcg,thread=multi}" -cpu max -smp 2 -m 3072 \
  -nographic -no-reboot -nodefaults -serial stdio \
  -kernel "$cache"/kernel/boot/vmlinuz-* -initrd "$scratch/initrd" \
  -append "console=ttyS0 panic=-1 quiet mitigations=off" \
  -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
  </dev/null | tr -d '\r' | tee "$scratch/console" |
  awk '/^### job ended/ {job = 0} job {print; fflush()} /### job begins$/ {job = 1}' || true
status=$(sed -n 's/^### job ended with \([0-9]*\)$/\1/p' "$scratch/console" | tail -1)
[ -n "$status" ] || tail -20 "$scratch/console" >&2
[ -n "$status" ] || { echo "the virtual machine ended, or was ended after $seconds s, before its job" >&2; exit 1; }
exit "$status"

#!/bin/bash
# seed.sh CTID RUN_URL REPOSITORY_URL KEY_URL ALLOWED…: what people copy today, as a plain script: edit the configuration,
# download inside the container, check nothing, run the .run, add the repository, install, restart. The sequence is that
# of the script that nvstage replaces, mended only where it could not work at all: relative mount targets, device rules
# (ALLOWED, such as `c 195:*`), the flat repository with its key, and stand-ins for kmod where it is missing. curl is there.
# With an empty PACKAGES it is the driver's part of that alone.
set -euo pipefail
packages=${PACKAGES-cuda-toolkit-12-8 nvtop}
ctid=$1 run_url=$2 repository_url=$3 key_url=$4
shift 4
config=/etc/pve/lxc/$ctid.conf
configure() { grep -qxF "$1" "$config" || echo "$1" >> "$config"; }
inside() {
    pct exec "$ctid" -- sh -ec "export DEBIAN_FRONTEND=noninteractive PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; $1"
}

for allowed in "$@"; do configure "lxc.cgroup2.devices.allow: $allowed rw"; done
for node in nvidia0 nvidiactl nvidia-uvm nvidia-uvm-tools; do
    configure "lxc.mount.entry: /dev/$node dev/$node none bind,optional,create=file 0 0"
done
configure 'lxc.mount.entry: /dev/nvidia-caps dev/nvidia-caps none bind,optional,create=dir 0 0'
if inside 'nvidia-smi --version' > /dev/null 2>&1; then exit 0; fi

[ -z "$packages" ] || inside "curl -fsS $key_url -o /etc/apt/keyrings/cuda.asc
    echo 'deb [signed-by=/etc/apt/keyrings/cuda.asc] $repository_url /' > /etc/apt/sources.list.d/cuda.list"
inside "curl -fsS $run_url -o /root/nvidia.run"
inside "for tool in modprobe rmmod lsmod depmod; do ln -sf /bin/true /usr/local/sbin/\$tool; done
    sh /root/nvidia.run --no-kernel-module --silent
    rm /root/nvidia.run"
if [ -n "$packages" ]; then
    inside 'apt-get -qq update'
    inside "apt-get -qq -y install --no-install-recommends $packages"
fi
inside 'nvidia-smi || true'
pct stop "$ctid"
for _ in $(seq 60); do [ "$(pct status "$ctid")" = 'status: stopped' ] && break; sleep 1; done
pct start "$ctid"
for _ in $(seq 60); do [ "$(pct status "$ctid")" = 'status: running' ] && break; sleep 1; done

#!/bin/bash
# seed.sh CTID RUN_URL REPOSITORY_URL KEY_URL CODENAME_LESS_SOURCE: what people copy today, as a plain script: edit the configuration, download
# inside the container, check nothing, run the .run, add the repository, install, restart. The sequence is that of the
# script that nvstage replaces (its order of steps included), mended only where it could not work at all: relative
# mount targets, the flat repository with its key, and stand-ins for the missing kmod.
set -euo pipefail
ctid=$1 run_url=$2 repository_url=$3 key_url=$4
config=/etc/pve/lxc/$ctid.conf
for node in nvidia0 nvidiactl nvidia-uvm nvidia-uvm-tools; do
    line="lxc.mount.entry: /dev/$node dev/$node none bind,optional,create=file 0 0"
    grep -qxF "$line" "$config" || echo "$line" >> "$config"
done
inside() { pct exec "$ctid" -- sh -ec "$1"; }
fetch="/usr/lib/apt/apt-helper -qq download-file"

inside 'nvidia-smi --version' > /dev/null 2>&1 && exit 0
inside 'for tool in modprobe rmmod lsmod depmod; do ln -sf /bin/true /usr/local/sbin/$tool; done'
inside "$fetch $key_url /etc/apt/keyrings/cuda.asc"
inside "echo 'deb [signed-by=/etc/apt/keyrings/cuda.asc] $repository_url /' > /etc/apt/sources.list.d/cuda.list"
inside "$fetch $run_url /root/nvidia.run"
inside 'cd /root && sh nvidia.run --no-kernel-module --silent'
inside 'rm -f /root/nvidia.run'
inside 'apt-get -qq update'
inside 'apt-get -qq -y install cuda-toolkit-12-8 nvtop'
inside 'nvidia-smi || true'
pct stop "$ctid"
for _ in $(seq 60); do [ "$(pct status "$ctid")" = 'status: stopped' ] && break; sleep 1; done
pct start "$ctid"
for _ in $(seq 60); do [ "$(pct status "$ctid")" = 'status: running' ] && break; sleep 1; done

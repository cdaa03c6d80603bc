# A Debian host with Osmosis in /opt/osmosis: what every host of the lab runs, and a packaging example.
# Layers go from the slowest to change to the fastest, so that an edit of the sources rebuilds in seconds.

FROM node:24-trixie-slim AS datapath
RUN apt-get update \
  && apt-get install -y --no-install-recommends clang libbpf-dev linux-libc-dev llvm \
  && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY agent/datapath ./
# llvm-strip drops the DWARF and keeps the BTF, which bpftool needs for the maps.
RUN clang -O2 -g -Wall -target bpf -mcpu=v3 -I"/usr/include/$(uname -m)-linux-gnu" -c osmosis.bpf.c -o osmosis.bpf.o \
  && clang -O2 -g -Wall -target bpf -mcpu=v3 -DSOCKET_OPTIONS -I"/usr/include/$(uname -m)-linux-gnu" \
    -c osmosis.bpf.c -o sockets.bpf.o \
  && clang -O2 -g -Wall -target bpf -mcpu=v3 -I"/usr/include/$(uname -m)-linux-gnu" -c wake.bpf.c -o wake.bpf.o \
  && llvm-strip -g osmosis.bpf.o sockets.bpf.o wake.bpf.o

FROM node:24-trixie-slim AS modules
WORKDIR /opt/osmosis
COPY package.json package-lock.json ./
# Development tools go first: not even their lock entries matter here.
RUN npm pkg delete devDependencies && npm ci --omit=optional --ignore-scripts --no-audit --no-fund

FROM node:24-trixie-slim
# Services come installed and stopped, as tests start their own (policy-rc.d 101 denies every start).
RUN printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d \
  && apt-get update \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
    attr bpftool catatonit criu iproute2 kmod nftables openssh-client openssh-server procps \
    curl ethtool iperf3 iputils-ping less netcat-openbsd psmisc python3 socat strace tcpdump tmux vim-tiny \
    haproxy mariadb-client mariadb-server memcached mosquitto mosquitto-clients nginx-light redis-server redis-tools \
  && rm -rf /var/lib/apt/lists/* /etc/ssh/ssh_host_* \
  && mkdir -p /var/log/lab-exec \
  && printf 'PermitRootLogin prohibit-password\nHostKey /etc/ssh/ssh_host_ed25519_key\nMaxStartups 100\n' \
    > /etc/ssh/sshd_config.d/osmosis-lab.conf \
  && ln -s /opt/osmosis/orchestrator/cli.js /usr/local/bin/osmosis
# Kernels from 6.16 on need CRIU 4.2 (SO_PASSCRED of an inet socket is an error there), which is in testing only.
# Testing may be a few days older or newer than the clock of the builder says: that check is off, signatures are not.
RUN for list in /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources; do \
    [ ! -s "$list" ] || sed 's/trixie/forky/g' "$list" > "/etc/apt/sources.list.d/forky-$(basename "$list")"; \
  done \
  && apt-get -o Acquire::Check-Date=false update \
  && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends -t forky criu \
  && rm -rf /var/lib/apt/lists/* /etc/apt/sources.list.d/forky-* \
  && criu --version
COPY --from=modules /opt/osmosis/node_modules /opt/osmosis/node_modules
COPY . /opt/osmosis/
COPY --from=datapath /src/osmosis.bpf.o /src/sockets.bpf.o /src/wake.bpf.o /opt/osmosis/agent/datapath/
# PID 1 reaps whatever a test leaves behind, as init does on a plain host.
ENTRYPOINT ["catatonit", "--"]
CMD ["sh", "/opt/osmosis/fixtures/lab/host.sh"]

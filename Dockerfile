# Two images: `worker` runs one task (OpenCode and what it needs, as an ordinary user), `chargehand` is the server.
#
#   docker build --target worker -t chargehand-worker .
#   docker build --target chargehand -t chargehand .
#
# Builds with the classic builder, BuildKit and Podman alike. Where no image can be pulled:
# - BASE_IMAGE names another base (tests/docker/base-image makes one out of packages);
# - a file `opencode/opencode` in the build context is used instead of asking npm;
# - a file `chargehand` in the build context makes the target `chargehand-runtime` complete without a Rust image. It stands
#   first because the classic builder builds everything that stands before its target.

ARG BASE_IMAGE=debian:bookworm-slim
ARG RUST_IMAGE=rust:1.95-bookworm

# ---- the server without its program, or with the one in the build context ----
FROM ${BASE_IMAGE} AS chargehand-runtime
RUN set -e; \
    if ! command -v git >/dev/null || [ ! -e /etc/ssl/certs/ca-certificates.crt ]; then \
        apt-get update -qq; \
        apt-get install -qq --yes --no-install-recommends ca-certificates git; \
        rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb; \
    fi; \
    echo 'chargehand:x:10001:10001::/var/lib/chargehand:/bin/sh' >>/etc/passwd; \
    echo 'chargehand:x:10001:' >>/etc/group; \
    mkdir -p /var/lib/chargehand; \
    chown 10001:10001 /var/lib/chargehand
COPY config/images/as-chargehand chargehan[d] /usr/local/bin/
ENV HOME=/var/lib/chargehand CHARGEHAND_DATA_DIR=/var/lib/chargehand
WORKDIR /var/lib/chargehand
USER 10001:10001
EXPOSE 3500
# Asks the server that runs in this container. Where tokens are configured, CHARGEHAND_TOKEN or CHARGEHAND_TOKEN_FILE must
# hold one of them.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["chargehand", "health"]
ENTRYPOINT ["chargehand"]
CMD ["serve"]

# ---- OpenCode, pinned ----
FROM ${BASE_IMAGE} AS opencode
ARG OPENCODE_VERSION=1.18.33
# The Dockerfile is named only because a COPY must find at least one file.
COPY Dockerfile opencod[e]/opencode /tmp/opencode/
RUN set -e; \
    if [ ! -e /tmp/opencode/opencode ]; then \
        apt-get update -qq; \
        apt-get install -qq --yes --no-install-recommends npm ca-certificates; \
        npm install --prefix /tmp/npm --no-audit --no-fund "opencode-ai@${OPENCODE_VERSION}"; \
        for program in $(printf '%s\n' /tmp/npm/node_modules/opencode-linux-*/bin/opencode | awk '{ print length, $0 }' | sort -n | cut -d ' ' -f 2-); do \
            if "$program" --version >/dev/null 2>&1; then cp "$program" /tmp/opencode/opencode; break; fi; \
        done; \
    fi; \
    mkdir -p /out; \
    mv /tmp/opencode/opencode /out/opencode; \
    chmod 755 /out/opencode

# ---- the worker ----
FROM ${BASE_IMAGE} AS worker
RUN set -e; \
    missing=""; \
    for program in bash git rg; do command -v "$program" >/dev/null || missing=1; done; \
    [ -e /etc/ssl/certs/ca-certificates.crt ] || missing=1; \
    if [ -n "$missing" ]; then \
        apt-get update -qq; \
        apt-get install -qq --yes --no-install-recommends bash ca-certificates git ripgrep; \
        rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb; \
    fi; \
    echo 'worker:x:10001:10001::/home/worker:/bin/bash' >>/etc/passwd; \
    echo 'worker:x:10001:' >>/etc/group; \
    mkdir -p /home/worker /workspace; \
    chown 10001:10001 /home/worker /workspace
COPY --from=opencode /out/opencode /usr/local/bin/opencode
ENV HOME=/home/worker
WORKDIR /workspace
USER 10001:10001
# Chargehand starts its workers with a command of its own; this one shows that the image works.
CMD ["opencode", "--version"]

# ---- the server, built from source ----
FROM ${RUST_IMAGE} AS build
WORKDIR /source
COPY . .
RUN cargo build --locked --release --features matrix --bin chargehand && mkdir /out && cp target/release/chargehand /out/chargehand

FROM chargehand-runtime AS chargehand
COPY --from=build /out/chargehand /usr/local/bin/chargehand

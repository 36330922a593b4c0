# syntax=docker/dockerfile:1
# The server as one static binary on an empty file system: no shell, no package manager, no libc to patch.
# The tag names the Rust release and the Alpine release; Rust is the one in rust-toolchain.toml.
FROM rust:1.95.0-alpine3.23 AS chef
# The toolchain file asks for clippy and rustfmt, which a build does not need; this keeps rustup from fetching them.
ENV RUSTUP_TOOLCHAIN=1.95.0
# ring and mimalloc contain C. The certificates and the time zones are for the last stage.
RUN apk add --no-cache build-base ca-certificates tzdata
RUN cargo install --locked --version 0.1.78 cargo-chef
WORKDIR /build

# What the dependencies are, without a line of our own code: changes only when a manifest does.
FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json --bin mcp-server

FROM chef AS build
COPY --from=plan /build/recipe.json recipe.json
# This layer holds every compiled dependency and is reused until the recipe changes.
RUN cargo chef cook --release --locked --package mcp-server --bin mcp-server --recipe-path recipe.json
COPY . .
RUN cargo build --release --locked --package mcp-server --bin mcp-server

FROM scratch
# The roots to check PostgreSQL's and OpenTelemetry's certificates against, where rustls looks for them.
COPY --from=chef /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# Appointments are said in time zones, and their rules change: they come from the system, not from the binary.
COPY --from=chef /usr/share/zoneinfo /usr/share/zoneinfo
COPY --from=build /build/target/release/mcp-server /usr/local/bin/mcp-server

# Last, because they differ in every build and every layer after them would too.
ARG VERSION=0.0.0
ARG COMMIT=unknown
LABEL org.opencontainers.image.title="mcp-server" \
  org.opencontainers.image.description="An MCP server that knows it is one of two colors" \
  org.opencontainers.image.licenses="MIT OR Apache-2.0" \
  org.opencontainers.image.version="${VERSION}" \
  org.opencontainers.image.revision="${COMMIT}"
# Version and commit belong to the image; the color belongs to where it is put.
ENV LISTEN=0.0.0.0:3000 \
  RELEASE_VERSION=${VERSION} \
  RELEASE_COMMIT=${COMMIT}

# A number, so that Kubernetes' runAsNonRoot can check it.
USER 65532:65532
EXPOSE 3000
STOPSIGNAL SIGTERM
# Liveness, not readiness: a container that is leaving is still healthy.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --retries=3 \
  CMD ["/usr/local/bin/mcp-server", "health"]
ENTRYPOINT ["/usr/local/bin/mcp-server"]
CMD ["serve"]

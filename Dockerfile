# Builds a small image without shell or root. The binary checks its own health.
FROM rust:1-slim-bookworm AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY tests tests
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked && cp target/release/tcp_probe_exporter /tcp_probe_exporter

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /tcp_probe_exporter /usr/local/bin/tcp_probe_exporter
LABEL org.opencontainers.image.title="tcp_probe_exporter" \
    org.opencontainers.image.description="Prometheus exporter that watches TCP ports" \
    org.opencontainers.image.licenses="Apache-2.0"
EXPOSE 10115
USER nonroot
# With other flags for port, TLS or prefix: the same flags after `healthcheck`.
HEALTHCHECK --interval=30s --timeout=5s \
    CMD ["/usr/local/bin/tcp_probe_exporter", "healthcheck"]
ENTRYPOINT ["/usr/local/bin/tcp_probe_exporter"]

# Pointsman in an image: one binary on distroless, not root, nothing written.
#
#   docker build -t pointsman:0.1.0 .
#
# glibc and not a static binary: `pointsman probe` loads NVIDIA's library at run time, which is linked against glibc.
FROM docker.io/library/rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin pointsman \
    && strip --strip-debug -o /pointsman target/release/pointsman

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /pointsman /usr/local/bin/pointsman
USER 65532:65532
EXPOSE 9002 9003 9090
ENTRYPOINT ["/usr/local/bin/pointsman"]

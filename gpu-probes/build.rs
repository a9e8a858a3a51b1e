//! Compiles the telemetry's wire contract with protox: no `protoc` has to be on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    println!("cargo:rerun-if-changed={root}/pointsman");
    let descriptors = protox::compile(["pointsman/gpu/v1/telemetry.proto"], [root])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

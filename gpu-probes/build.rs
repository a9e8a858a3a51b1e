//! Compiles the wire contracts with protox: no `protoc` has to be on the machine.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../proto");
    println!("cargo:rerun-if-changed={root}/pointsman");
    println!("cargo:rerun-if-changed={root}/kubelet");
    let files = [
        "pointsman/gpu/v1/telemetry.proto",
        "kubelet/podresources/v1/api.proto",
    ];
    let descriptors = protox::compile(files, [root])?;
    tonic_prost_build::configure().compile_fds(descriptors)?;
    Ok(())
}

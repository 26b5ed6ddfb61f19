//! Generates the Connect services from `proto/`, without `protoc`.

use std::path::PathBuf;

use prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = ["proto/process.proto", "proto/filesystem.proto"];
    let descriptors = protox::compile(files, ["proto"])?;
    let path = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(&path, descriptors.encode_to_vec())?;

    connectrpc_build::Config::new()
        .files(&["process.proto", "filesystem.proto"])
        .descriptor_set(&path)
        // It would name the descriptors, which this very script writes: never up to date.
        .emit_rerun_directives(false)
        .include_file("_connectrpc.rs")
        .compile()?;
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    Ok(())
}

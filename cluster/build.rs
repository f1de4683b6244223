//! Generates the messages between nodes from `proto/proto`, without any tool that is not a crate.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let directory = Path::new("../proto/proto");
    let mut files: Vec<_> = std::fs::read_dir(directory)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|file| file.extension().is_some_and(|extension| extension == "proto"));
    files.sort();
    println!("cargo:rerun-if-changed={}", directory.display());
    let descriptors = protox::compile(&files, [directory])?;
    tonic_prost_build::configure()
        .bytes(".")
        .codec_path("crate::raft::FrameCodec")
        .compile_fds(descriptors)?;
    Ok(())
}

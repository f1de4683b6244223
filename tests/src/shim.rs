//! Brokers that run with a library loaded in front of the C library: disks and clocks that a test breaks.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Writes a script into `directory` that becomes `program` with the shim of this name (`tests/shims`) and these variables.
///
/// # Panics
/// No C compiler is installed, or the directory cannot be written.
pub fn start_script(directory: &Path, program: &str, name: &str, variables: &[(&str, &Path)]) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("shims/{name}.c"));
    let shim = directory.join(format!("{name}.so"));
    let compiled = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&shim, &source])
        .status()
        .expect("a C compiler is installed");
    assert!(compiled.success(), "the shim compiles");
    let variables = variables
        .iter()
        .map(|(name, value)| format!("{name}='{}' ", value.display()));
    let text = format!(
        "#!/bin/sh\nexec env {}LD_PRELOAD='{}' '{program}' \"$@\"\n",
        variables.collect::<String>(),
        shim.display()
    );
    let script = directory.join("start");
    fs::write(&script, text).expect("the temporary directory is writable");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("the script is ours");
    script
}

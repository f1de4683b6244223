//! Files of golden frames: a line `name hex` for each. The broker's tests use this file too.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A frame and its name: the message's, a slash, and what is special about it.
pub(super) type Named = (String, Vec<u8>);

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let pair = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two digits");
    (0..hex.len()).step_by(2).map(pair).collect()
}

pub(super) fn parse(file: &str) -> Vec<Named> {
    let line = |line: &str| {
        let (name, frame) = line.split_once(' ').unwrap_or((line, ""));
        (name.to_owned(), bytes(frame))
    };
    file.lines().map(line).collect()
}

/// Keeps the frames of this version, if that is wished, and compares them with those that are frozen.
pub(super) fn check_frozen(samples: &[Named], frozen: &str, file: &str) {
    if let Some(kept) = std::env::var_os("QUORATE_GOLDEN") {
        let line = |(name, frame): &Named| format!("{name} {}", hex(frame)).trim_end().to_owned();
        let lines: Vec<String> = samples.iter().map(line).collect();
        let kept = Path::new(&kept);
        fs::create_dir_all(kept).expect("ours");
        fs::write(kept.join(file), lines.join("\n") + "\n").expect("ours");
    }
    let frozen: BTreeMap<String, Vec<u8>> = parse(frozen).into_iter().collect();
    for (name, frame) in samples {
        let frozen = frozen.get(name).map(|frame| hex(frame));
        let now = Some(hex(frame));
        assert_eq!(
            now, frozen,
            "{name}: no frozen frame changes, a new sample gets a line"
        );
    }
    assert_eq!(
        frozen.len(),
        samples.len(),
        "no frozen frame goes, and names are used once"
    );
}

/// The files of this name of all versions that were released.
pub(super) fn released(file: &str) -> Vec<Vec<Named>> {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden");
    let versions = fs::read_dir(golden).into_iter().flatten();
    let read = versions.map(|version| {
        let path = version.expect("readable").path().join(file);
        println!("{}", path.display());
        let named = parse(&fs::read_to_string(path).expect("each version has its frames"));
        assert!(!named.is_empty());
        named
    });
    read.collect()
}

//! What the program says of its configuration: the defaults as a file, and the reference page.

/// The defaults as a TOML file with a comment on every key.
pub fn defaults() -> String {
    String::new()
}

/// The reference page in Markdown.
pub fn reference() -> String {
    String::new()
}

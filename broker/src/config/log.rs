//! `[log]`: what is logged, and how it looks.

use super::schema::{Bounds, choice, section};
use super::value::{Raw, Scalar, quote, scalar_node};

choice! {
    /// How log lines look.
    pub enum LogFormat {
        /// One line for people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

section! {
    /// What is logged, and how it looks. Log lines go to standard output.
    pub struct LogConfig {
        /// Least severity that is logged; single parts of the program can have their own, as in
        /// `info,quorate::router=debug`. Libraries are one level quieter unless they are named.
        level: LogLevel = LogLevel("info".to_owned()), "", Any, Live;
        /// How log lines look.
        format: LogFormat = LogFormat::Text, "", Any, Restart;
    }
}

/// A level, and levels for single targets: `info,quorate::router=debug`. Always in a form that
/// `tracing_subscriber::EnvFilter` reads as it is meant: a misspelt level alone would be taken for a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLevel(String);

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

impl LogLevel {
    /// Checks `text`; the error says what is wrong.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut default = None;
        let mut parts = Vec::new();
        for part in text.split(',').map(str::trim) {
            let (target, level) = part.rsplit_once('=').unwrap_or(("", part));
            let level = level.to_ascii_lowercase();
            if !LEVELS.contains(&level.as_str()) {
                return Err(format!("{level:?} is not a level"));
            }
            let target_fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_:".contains(&byte);
            if !target.bytes().all(target_fits) || (part.contains('=') && target.is_empty()) {
                return Err(format!("{target:?} is not a part of the program"));
            }
            if target.is_empty() {
                if default.replace(level).is_some() {
                    return Err("has two levels for everything".to_owned());
                }
            } else {
                parts.push(format!("{target}={level}"));
            }
        }
        parts.insert(0, default.unwrap_or_else(|| "info".to_owned()));
        Ok(Self(parts.join(",")))
    }

    /// As a filter directive.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Scalar for LogLevel {
    fn read(raw: Raw<'_>, _: Bounds) -> Result<Self, String> {
        Self::parse(&raw.text()?)
    }

    fn allowed(_: Bounds) -> String {
        format!("`{}`, and `target=level` after commas", LEVELS.join("`, `"))
    }

    fn render(&self) -> Option<String> {
        Some(quote(&self.0))
    }
}

scalar_node!(LogLevel);

//! Errors of the configuration: where a value came from, what is wrong with it, what is allowed instead.
//!
//! A [`Report`] travels through all layers and collects; nothing returns at the first error. It also remembers where
//! each key was set last, so that checks across keys can point at a line.

use std::collections::HashMap;
use std::fmt;

use super::schema::Section;

/// Where a value was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Nowhere: the default.
    Default,
    /// The file, and the line counted from 1.
    File {
        /// Path as it was given.
        path: String,
        /// Line, from 1.
        line: usize,
    },
    /// An environment variable.
    Environment(String),
    /// A command line flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment(name) => write!(f, "environment variable {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// Where the value was given.
    pub origin: Origin,
    /// Dotted key; empty for a syntax error.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What is allowed, or what to do; empty where the problem says it.
    pub allowed: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.problem)?;
        if !self.allowed.is_empty() {
            write!(f, "; allowed: {}", self.allowed)?;
        }
        Ok(())
    }
}

/// Everything that is wrong with a configuration, in the order of its layers and lines; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

/// The layer being read.
#[derive(Clone, Copy)]
pub(super) enum Layer<'a> {
    /// Checks across keys, after all layers.
    Checks,
    File {
        path: &'a str,
        text: &'a str,
    },
    Environment(&'a str),
    Flag(&'a str),
}

/// Collects errors and remembers origins.
pub(crate) struct Report<'a> {
    layer: Layer<'a>,
    errors: Vec<ConfigError>,
    origins: HashMap<String, Origin>,
}

impl<'a> Report<'a> {
    pub(super) fn new() -> Self {
        Self {
            layer: Layer::Checks,
            errors: Vec::new(),
            origins: HashMap::new(),
        }
    }

    pub(super) fn enter(&mut self, layer: Layer<'a>) {
        self.layer = layer;
    }

    /// Origin of a value at byte `offset` of the file, or of the present variable or flag.
    pub(super) fn origin(&self, offset: Option<usize>) -> Origin {
        match self.layer {
            Layer::Checks => Origin::Default,
            Layer::File { path, text } => {
                let before = &text.as_bytes()[..offset.unwrap_or(0).min(text.len())];
                let line = 1 + before.iter().filter(|byte| **byte == b'\n').count();
                Origin::File {
                    path: path.to_owned(),
                    line,
                }
            }
            Layer::Environment(name) => Origin::Environment(name.to_owned()),
            Layer::Flag(name) => Origin::Flag(name.to_owned()),
        }
    }

    /// Notes that `key` was set here.
    pub(super) fn was_set(&mut self, key: &str, offset: Option<usize>) {
        let origin = self.origin(offset);
        self.origins.insert(key.to_owned(), origin);
    }

    /// Where `key` was set last.
    pub(super) fn origin_of(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// Reports an error at the present layer.
    pub(super) fn error(
        &mut self,
        offset: Option<usize>,
        key: &str,
        problem: impl Into<String>,
        allowed: impl Into<String>,
    ) {
        let origin = self.origin(offset);
        self.push(origin, key, problem, allowed);
    }

    /// Reports an error of a check across keys, at the place where `key` was set.
    pub(super) fn check(&mut self, key: &str, problem: impl Into<String>, allowed: impl Into<String>) {
        let origin = self.origin_of(key);
        self.push(origin, key, problem, allowed);
    }

    fn push(&mut self, origin: Origin, key: &str, problem: impl Into<String>, allowed: impl Into<String>) {
        let error = ConfigError {
            origin,
            key: key.to_owned(),
            problem: problem.into(),
            allowed: allowed.into(),
        };
        // One wrong key can be wrong for each of several listeners; saying it once is enough.
        if !self.errors.contains(&error) {
            self.errors.push(error);
        }
    }

    /// Reports an unknown key with the nearest known one.
    pub(super) fn unknown_key<S: Section>(
        &mut self,
        offset: Option<usize>,
        section: &S,
        at: &str,
        key: &str,
    ) {
        let siblings = section.fields();
        let hint = super::nearest::hint(key, at, siblings.iter().map(|field| field.key));
        self.error(offset, at, format!("unknown key{hint}"), "");
    }

    /// Whether anything was wrong so far.
    pub(super) fn has_errors(&self) -> bool {
        !self.errors.is_empty()
    }

    /// Ends the report.
    pub(super) fn finish(self) -> Result<(), ConfigErrors> {
        if self.errors.is_empty() {
            Ok(())
        } else {
            Err(ConfigErrors(self.errors))
        }
    }
}

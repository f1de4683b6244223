//! The layers a configuration is read from: file, environment, flags.

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::report::{Layer, Report};
use super::schema::{Input, Section};
use super::{Config, ConfigErrors, ListenerConfig, ListenerKind, check, nearest, table};

/// Beginning of every environment variable that is configuration.
const PREFIX: &str = "QUORATE_";

/// Variables of the prefix that other commands of the program read.
const OTHER_VARIABLES: [&str; 1] = ["QUORATE_ADMIN_URL"];

/// A value given by a flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flag {
    /// The flag with its dashes, for errors.
    pub name: &'static str,
    /// Dotted key it sets; an item of an array by its name, as in `listener.mqtt.bind`.
    pub key: &'static str,
    /// The value.
    pub value: String,
}

/// Everything a configuration is read from.
#[derive(Clone, Debug, Default)]
pub struct Sources {
    /// The file, if any.
    pub file: Option<PathBuf>,
    /// The environment; what does not begin with `QUORATE_` is ignored.
    pub environment: Vec<(String, String)>,
    /// Flags, in order.
    pub flags: Vec<Flag>,
}

impl Sources {
    /// The process's environment, and nothing else yet. A variable that is not Unicode is taken with replacement
    /// characters, so that it is reported rather than missed.
    pub fn from_environment() -> Self {
        let text = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
        let environment = std::env::vars_os()
            .map(|(name, value)| (text(name), text(value)))
            .collect();
        Self {
            environment,
            ..Self::default()
        }
    }
}

/// Reads all layers and checks the whole.
///
/// # Errors
///
/// Everything that is wrong, in all layers.
pub fn load(sources: &Sources) -> Result<Config, ConfigErrors> {
    let path = sources
        .file
        .as_deref()
        .map(Path::display)
        .map(|path| path.to_string())
        .unwrap_or_default();
    let mut report = Report::new();
    let text = match &sources.file {
        Some(file) => std::fs::read_to_string(file).unwrap_or_else(|error| {
            report.enter(Layer::File {
                path: &path,
                text: "",
            });
            report.error(None, "", format!("cannot be read: {error}"), "");
            String::new()
        }),
        None => String::new(),
    };
    let mut config = Config::default();
    apply_file(&mut config, &path, &text, &mut report);
    let mut environment: Vec<_> = sources.environment.iter().collect();
    environment.sort();
    for (name, value) in environment {
        apply_variable(&mut config, name, value, &mut report);
    }
    for flag in &sources.flags {
        report.enter(Layer::Flag(flag.name));
        apply_flag(&mut config, flag, &mut report);
    }
    report.enter(Layer::Checks);
    // A value that was refused leaves its default behind; what a check says of that would only mislead.
    if !report.has_errors() {
        check::check(&config, &mut report);
    }
    report.finish().map(|()| config)
}

fn apply_file<'a>(config: &mut Config, path: &'a str, text: &'a str, report: &mut Report<'a>) {
    report.enter(Layer::File { path, text });
    let (table, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        report.error(error.span().map(|span| span.start), "", error.message(), "");
    }
    // After a syntax error keys can have landed in the wrong table; complaints about them would be noise.
    if errors.is_empty() {
        let root = Spanned::new(table.span(), DeValue::Table(table.into_inner()));
        table::apply_section(config, Input::Toml(&root), "", report);
    }
}

fn apply_variable<'a>(config: &mut Config, name: &'a str, value: &'a str, report: &mut Report<'a>) {
    let Some(key) = name.strip_prefix(PREFIX) else {
        return;
    };
    if OTHER_VARIABLES.contains(&name) || is_service_link(key) {
        return;
    }
    report.enter(Layer::Environment(name));
    let path: Vec<String> = key.split("__").map(str::to_ascii_lowercase).collect();
    if path.len() < 2 {
        let mut paths = Vec::new();
        nearest::collect(&Config::default().fields(), "", &mut paths);
        let variables: Vec<String> = paths.iter().map(|path| variable(path)).collect();
        let hint = nearest::nearest(name, variables.iter().map(String::as_str));
        let hint = hint
            .map(|near| format!(", did you mean {near}?"))
            .unwrap_or_default();
        report.error(
            None,
            "",
            format!("unknown variable{hint}"),
            format!("{PREFIX}SECTION__KEY"),
        );
        return;
    }
    table::apply_section(
        config,
        Input::Text {
            rest: &path,
            text: value,
        },
        "",
        report,
    );
}

/// The variable of a dotted key.
pub(super) fn variable(path: &str) -> String {
    format!("{PREFIX}{}", path.replace('.', "__").to_ascii_uppercase())
}

/// Kubernetes gives every container variables for each Service, after the Service's name; a Service called `quorate`
/// or `quorate-mqtt` must not keep the node from starting.
fn is_service_link(key: &str) -> bool {
    let key = format!("_{key}");
    !key.contains("__")
        && (key.ends_with("_SERVICE_HOST")
            || key.ends_with("_SERVICE_PORT")
            || key.contains("_SERVICE_PORT_")
            || key.ends_with("_PORT")
            || ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
                let suffix = |end: &str| key.contains("_PORT_") && key.ends_with(&format!("{protocol}{end}"));
                ["", "_PROTO", "_PORT", "_ADDR"].into_iter().any(suffix)
            }))
}

fn apply_flag(config: &mut Config, flag: &Flag, report: &mut Report<'_>) {
    if let Some((name, kind)) = listener_of(flag)
        && !config.listener.iter().any(|listener| listener.name == name)
    {
        if kind.is_tls() {
            let problem = format!("there is no listener {name:?}, and a certificate is needed to open one");
            report.error(
                None,
                "",
                problem,
                format!("a [[listener]] named {name:?} with tls in the file"),
            );
            return;
        }
        config.listener.push(ListenerConfig::loopback(name, kind, 0));
    }
    let path: Vec<String> = flag.key.split('.').map(str::to_owned).collect();
    table::apply_section(
        config,
        Input::Text {
            rest: &path,
            text: &flag.value,
        },
        "",
        report,
    );
}

/// The listener that a `--mqtt-listen` and the like is about: it is created where the file has none of that name.
fn listener_of(flag: &Flag) -> Option<(&'static str, ListenerKind)> {
    let name = flag.key.strip_prefix("listener.")?.strip_suffix(".bind")?;
    let kinds = [
        ListenerKind::Mqtt,
        ListenerKind::Mqtts,
        ListenerKind::Ws,
        ListenerKind::Wss,
    ];
    kinds
        .into_iter()
        .find(|kind| kind.as_str() == name)
        .map(|kind| (name, kind))
}

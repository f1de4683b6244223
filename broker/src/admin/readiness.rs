//! Whether the node should get traffic, as a list of named conditions with a reason for each that is not met.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

/// The conditions. Cloning shares them. Without any the node is not ready: it has not begun to start.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, Option<String>>>>);

impl Readiness {
    /// Declares a condition or changes it: `None` is met, otherwise a reason that an operator can act on.
    pub fn set(&self, name: &str, unmet: Option<String>) {
        let before = self.0.lock().insert(name.to_owned(), unmet.clone());
        if before.as_ref() == Some(&unmet) {
            return;
        }
        match unmet {
            None => tracing::debug!(condition = name, "condition of readiness met"),
            Some(reason) => tracing::debug!(condition = name, reason, "condition of readiness not met"),
        }
    }

    /// Whether every condition is met.
    pub fn is_ready(&self) -> bool {
        self.report().ready
    }

    pub(super) fn report(&self) -> Report {
        let conditions: Vec<_> = self
            .0
            .lock()
            .iter()
            .map(|(name, unmet)| Condition {
                name: name.clone(),
                met: unmet.is_none(),
                reason: unmet.clone(),
            })
            .collect();
        Report {
            ready: !conditions.is_empty() && conditions.iter().all(|condition| condition.met),
            conditions,
        }
    }
}

/// What `/readyz` answers.
#[derive(serde::Serialize)]
pub(super) struct Report {
    pub(super) ready: bool,
    conditions: Vec<Condition>,
}

#[derive(serde::Serialize)]
struct Condition {
    name: String,
    met: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", if self.ready { "ready" } else { "not ready" })?;
        if self.conditions.is_empty() {
            writeln!(f, "starting")?;
        }
        for Condition { name, reason, .. } in &self.conditions {
            match reason {
                None => writeln!(f, "{name}: ok")?,
                Some(reason) => writeln!(f, "{name}: {reason}")?,
            }
        }
        Ok(())
    }
}

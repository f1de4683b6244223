//! Authorisation by the rules of `[acl]`: the first rule that fits decides.
//!
//! What "fits" means differs between the two effects, so that a doubt is never to the operator's harm:
//!
//! | effect | fits a publish | fits a subscription |
//! |---|---|---|
//! | allow | its topic matches the filter | every topic it can match, matches the filter |
//! | deny | its topic matches the filter | some topic it can match, matches the filter |
//!
//! A filter of an allowing rule that begins with a wildcard does not reach topics that begin with `$`, as in a
//! subscription [MQTT-4.7.2-1]; one of a denying rule does.
//!
//! `%c` and `%u` put the client identifier and the proved user name into one level. Where that is impossible, since
//! there is no user name or the text is empty or contains `/`, `+` or `#`, the level of an allowing rule fits nothing
//! and the level of a denying rule fits every level: no client widens a rule by its name.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::RwLock;
use quorate_proto::topic::{TopicFilter, TopicLimits};

use super::{Action, Authorizer, ClientInfo, Decision};
use crate::config::{AclAction, AclConfig, AclEffect, AclRuleConfig};

/// What is wrong with the filter of a rule, as a sentence's end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RuleError(String);

/// Checks the filter of a rule.
///
/// # Errors
///
/// What is wrong with it.
pub fn check_rule_filter(filter: &str) -> Result<(), RuleError> {
    if filter.starts_with("$share/") {
        return Err(RuleError(
            "names a shared subscription; rules are about the filter within it".to_owned(),
        ));
    }
    let limits = TopicLimits {
        levels_max: u16::MAX,
        bytes_max: u16::MAX,
    };
    TopicFilter::parse(filter, &limits)
        .map(|_| ())
        .map_err(|error| RuleError(error.fault.text().to_owned()))
}

/// The rules of the configuration. Cloning shares them.
///
/// They are asked for every publish, so a worker keeps the compiled rules at hand and reads one word to see whether
/// they still hold; workers share no lock and no count of references.
#[derive(Clone, Debug)]
pub struct AclRules(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    rules: RwLock<Arc<Compiled>>,
    generation: AtomicU64,
}

#[derive(Debug)]
struct Compiled {
    rules: Vec<Rule>,
    default: Decision,
}

thread_local! {
    /// The rules this thread asked last, with their generation.
    static AT_HAND: RefCell<(u64, Arc<Compiled>)> =
        RefCell::new((0, Arc::new(Compiled { rules: Vec::new(), default: Decision::Deny })));
}

/// A number that no rules of the process had before; 0 is for none.
fn next_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

impl AclRules {
    /// Compiles the rules of a configuration that passed its checks.
    pub fn new(config: &AclConfig) -> Self {
        let rules = RwLock::new(Arc::new(Compiled::new(config)));
        Self(Arc::new(Inner {
            rules,
            generation: AtomicU64::new(next_generation()),
        }))
    }

    /// Takes over the rules of a configuration read again. They hold for what clients do from now on; subscriptions
    /// that were allowed stay.
    pub fn replace(&self, config: &AclConfig) {
        let mut rules = self.0.rules.write();
        *rules = Arc::new(Compiled::new(config));
        // After the rules, and before the lock is free: whoever reads the new generation gets the new rules, and two
        // replacements cannot leave the older generation behind.
        self.0.generation.store(next_generation(), Ordering::Release);
    }

    /// Whether there is nothing to ask.
    pub fn allows_everything(&self) -> bool {
        let compiled = self.0.rules.read();
        compiled.default == Decision::Allow && compiled.rules.is_empty()
    }
}

impl Authorizer for AclRules {
    fn authorize(&self, client: &ClientInfo, action: Action, topic_or_filter: &str) -> Decision {
        let generation = self.generation();
        AT_HAND.with_borrow_mut(|(known, compiled)| {
            if *known != generation {
                // Rules newer than the generation read are taken again next time, which does no harm.
                *compiled = Arc::clone(&self.0.rules.read());
                *known = generation;
            }
            compiled.decide(client, action, topic_or_filter)
        })
    }

    fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }
}

impl Compiled {
    fn new(config: &AclConfig) -> Self {
        let default = match config.default {
            Some(AclEffect::Deny) => Decision::Deny,
            Some(AclEffect::Allow) => Decision::Allow,
            // The checks of the configuration want it said where there are rules.
            None if config.rule.is_empty() => Decision::Allow,
            None => Decision::Deny,
        };
        Self {
            rules: config.rule.iter().map(Rule::new).collect(),
            default,
        }
    }

    fn decide(&self, client: &ClientInfo, action: Action, wanted: &str) -> Decision {
        let wanted = match action {
            Action::Publish => wanted,
            Action::Subscribe => within_share(wanted),
        };
        let rule = self.rules.iter().find(|rule| rule.fits(client, action, wanted));
        rule.map_or(self.default, |rule| rule.decision)
    }
}

/// The filter within a shared subscription, or the filter itself.
fn within_share(filter: &str) -> &str {
    let within = filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'));
    within.map_or(filter, |(_, within)| within)
}

/// One rule.
#[derive(Debug)]
struct Rule {
    decision: Decision,
    action: AclAction,
    user: Option<String>,
    client_id: Option<String>,
    levels: Vec<Level>,
    /// The filter itself, for rules that take it literally.
    exact: Option<String>,
}

/// One level of a rule's filter.
#[derive(Debug)]
enum Level {
    Hash,
    Plus,
    Text(String),
    /// Text with `%c` or `%u` in it.
    Template(String),
}

impl Rule {
    fn new(config: &AclRuleConfig) -> Self {
        let level = |text: &str| match text {
            "#" => Level::Hash,
            "+" => Level::Plus,
            text if text.contains("%c") || text.contains("%u") => Level::Template(text.to_owned()),
            text => Level::Text(text.to_owned()),
        };
        Self {
            decision: match config.effect {
                AclEffect::Allow => Decision::Allow,
                AclEffect::Deny => Decision::Deny,
            },
            action: config.action,
            user: config.user.clone(),
            client_id: config.client_id.clone(),
            levels: config.filter.split('/').map(level).collect(),
            exact: config.exact.then(|| config.filter.clone()),
        }
    }

    fn fits(&self, client: &ClientInfo, action: Action, wanted: &str) -> bool {
        let action_fits = match self.action {
            AclAction::All => true,
            AclAction::Publish => action == Action::Publish,
            AclAction::Subscribe => action == Action::Subscribe,
        };
        let user = client.identity.user_name.as_deref();
        action_fits
            && self.user.as_deref().is_none_or(|wanted| user == Some(wanted))
            && self
                .client_id
                .as_deref()
                .is_none_or(|wanted| *client.client_id == *wanted)
            && match (&self.exact, self.decision) {
                (Some(exact), _) => exact == wanted,
                (None, Decision::Allow) => self.covers(client, wanted),
                (None, Decision::Deny) => self.overlaps(client, wanted),
            }
    }

    /// Whether everything that `wanted` can match, matches this filter.
    fn covers(&self, client: &ClientInfo, wanted: &str) -> bool {
        if wanted.starts_with('$') && matches!(self.levels.first(), Some(Level::Hash | Level::Plus)) {
            return false;
        }
        // At the beginning `#` stands for one level at least, behind others for none too.
        if wanted == "#" {
            return matches!(self.levels[..], [Level::Hash] | [Level::Plus, Level::Hash]);
        }
        let mut wanted = wanted.split('/');
        for level in &self.levels {
            let have = wanted.next();
            let fits = match (level, have) {
                (Level::Hash, _) => return true,
                (_, None | Some("#")) => false,
                (Level::Plus, Some(_)) => true,
                (Level::Text(text), Some(have)) => text == have,
                (Level::Template(template), Some(have)) => {
                    fill(template, client).is_some_and(|text| text == have)
                }
            };
            if !fits {
                return false;
            }
        }
        wanted.next().is_none()
    }

    /// Whether some topic that `wanted` can match, matches this filter.
    fn overlaps(&self, client: &ClientInfo, wanted: &str) -> bool {
        let is_dollar = |text: &String| text.starts_with('$');
        let begins_dollar =
            matches!(self.levels.first(), Some(Level::Text(text) | Level::Template(text)) if is_dollar(text));
        if begins_dollar && wanted.starts_with(['+', '#']) {
            return false;
        }
        let mut wanted = wanted.split('/');
        for level in &self.levels {
            let fits = match (level, wanted.next()) {
                (Level::Hash, _) | (_, Some("#")) => return true,
                (_, None) => false,
                (Level::Plus, Some(_)) | (_, Some("+")) => true,
                (Level::Text(text), Some(have)) => text == have,
                (Level::Template(template), Some(have)) => {
                    fill(template, client).is_none_or(|text| text == have)
                }
            };
            if !fits {
                return false;
            }
        }
        matches!(wanted.next(), None | Some("#"))
    }
}

/// A level with the client's names in it; `None` where a name is missing or is not the text of one level.
fn fill(template: &str, client: &ClientInfo) -> Option<String> {
    let mut text = String::with_capacity(template.len() + client.client_id.len());
    let mut rest = template;
    // One pass, so that a `%u` within a client identifier stays what it is.
    while let Some(at) = rest.find('%') {
        text.push_str(&rest[..at]);
        let name = match rest.as_bytes().get(at + 1) {
            Some(b'c') => Some(&*client.client_id),
            Some(b'u') => Some(client.identity.user_name.as_deref()?),
            _ => None,
        };
        match name {
            Some(name) if name.is_empty() || name.contains(['/', '+', '#']) => return None,
            Some(name) => text.push_str(name),
            None => text.push('%'),
        }
        rest = &rest[at + if name.is_some() { 2 } else { 1 }..];
    }
    text.push_str(rest);
    Some(text)
}

#[cfg(test)]
mod tests;

//! `[acl]`: who may publish and subscribe to what.

use super::schema::{choice, section};

choice! {
    /// Outcome of a rule.
    pub enum AclEffect {
        /// Allowed.
        Allow = "allow",
        /// Refused.
        Deny = "deny",
    }
}

choice! {
    /// What a rule is about.
    pub enum AclAction {
        /// Publishing.
        Publish = "publish",
        /// Subscribing.
        Subscribe = "subscribe",
        /// Both.
        All = "all",
    }
}

section! {
    /// Who may publish and subscribe to what. The first rule that fits decides.
    pub struct AclConfig {
        /// What holds where no rule fits. Has to be given as soon as there is a rule; without rules all is allowed.
        /// The first rule, or the first `deny`, needs a restart; later changes do not.
        default: Option<AclEffect> = None, "", Any, Live;
        /// Tell MQTT 5 clients that a subscription was refused for lack of permission (0x87); otherwise they only learn
        /// that it failed (0x80).
        tell_not_authorized: bool = true, "", Any, Restart;
        /// Rules, the first that fits decides.
        rule: Vec<AclRuleConfig> = Vec::new();
    }
}

section! {
    /// One rule. An allowing rule fits a subscription where the filter covers everything the subscription can match;
    /// a denying rule where it covers any of it. An allowing filter that begins with a wildcard does not reach topics
    /// that begin with `$`; a denying one does.
    pub struct AclRuleConfig {
        /// Outcome.
        effect: AclEffect = AclEffect::Deny, "", Any, Live, required;
        /// What the rule is about.
        action: AclAction = AclAction::All, "", Any, Live;
        /// Topic filter; `%c` stands for the client identifier, `%u` for the proved user name, within one level. For a
        /// client without that name, or with `+`, `#` or `/` in it, such a level fits nothing in an allowing rule and
        /// everything in a denying one.
        filter: String = String::new(), "", Length(1, 65_535), Live, required;
        /// The rule is about a topic or subscription that is written exactly like the filter: wildcards and `%`
        /// signs mean nothing. A denying rule of this kind does not keep the topic from a wider subscription.
        exact: bool = false, "", Any, Live;
        /// The rule holds for this user only.
        user: Option<String> = None, "", Length(1, 1_024), Live;
        /// The rule holds for this client identifier only.
        client_id: Option<String> = None, "", Length(1, 65_535), Live;
    }
}

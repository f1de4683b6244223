//! SUBSCRIBE and UNSUBSCRIBE: authorised here, committed in the session's home group, routed before they are
//! acknowledged.

use std::rc::Rc;
use std::sync::Arc;

use quorate_cluster::node::{Completion, Placement};
use quorate_cluster::state::{Command, Outcome, SessionId, SubscribeResult, Subscription, wants_retained};
use quorate_proto::codec::{QoS, ReasonCode, SubscriptionOptions};
use quorate_proto::session::{Close, SubscribeRequest, UnsubscribeRequest};
use smallvec::SmallVec;

use super::connection::Conn;
use super::ticket::{Subscribing, Unsubscribing, WaitsFor};
use super::{Ticket, Worker};
use crate::auth::Action as AuthorizedAction;

impl Worker {
    pub(super) fn subscribe(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        request: &SubscribeRequest<'_>,
    ) -> Result<(), Close> {
        let Some((session, epoch)) = conn.session() else {
            return Ok(());
        };
        let mut reasons: SmallVec<[ReasonCode; 2]> = SmallVec::new();
        let mut filters: SmallVec<[(usize, Arc<str>, _); 2]> = SmallVec::new();
        for (place, entry) in request.entries.iter().enumerate() {
            let topic_filter = entry.share.map_or(entry.filter, |share| share.filter);
            let reason = match entry.verdict {
                Err(reason) => reason,
                Ok(()) if !self.is_authorized(conn, AuthorizedAction::Subscribe, topic_filter) => {
                    self.shared.settings.refused_subscription
                }
                Ok(()) => {
                    // A subscription above what the listener offers is granted what it offers [MQTT-3.8.4-8].
                    let qos = entry.options.qos.min(conn.listener.settings.maximum_qos);
                    filters.push((
                        place,
                        Arc::from(entry.filter),
                        SubscriptionOptions { qos, ..entry.options },
                    ));
                    granted(qos)
                }
            };
            reasons.push(reason);
        }
        let mut subscribing = Subscribing {
            session,
            packet_id: request.packet_id,
            subscription_id: request.subscription_id,
            reasons,
            filters,
            replay: None,
        };
        if subscribing.filters.is_empty() {
            return self.answer_subscribe(conn, &subscribing);
        }
        let subscriptions: Vec<Subscription> = subscribing
            .filters
            .iter()
            .map(|(_, filter, options)| Subscription {
                filter: filter.clone(),
                options: *options,
                subscription_id: subscribing.subscription_id,
            })
            .collect();
        let replayed: Vec<Arc<str>> = (subscribing.filters.iter())
            .filter(|(_, filter, options)| wants_retained(filter, options, true))
            .map(|(_, filter, _)| filter.clone())
            .collect();
        if !replayed.is_empty() {
            let mut crossers = self.crossers.borrow_mut();
            crossers.subscribes(session, &replayed, self.now());
            subscribing.replay = Some(conn.state.borrow_mut().rare().replays.expect(replayed));
        }
        self.route_early(session, &subscriptions);
        let command = Command::Subscribe {
            session,
            epoch,
            subscriptions,
            limits: self.shared.settings.session_limits,
            replay: subscribing.replay.filter(|_| Placement::is_durable(session)),
        };
        let ticket = Ticket {
            location: conn.location,
            waits_for: WaitsFor::Subscribed(Box::new(subscribing)),
        };
        self.shared
            .node()
            .home(session)
            .propose_routes(&command, Some(ticket));
        Ok(())
    }

    fn answer_subscribe(&self, conn: &Rc<Conn>, subscribing: &Subscribing) -> Result<(), Close> {
        for reason in subscribing.reasons.iter().filter(|reason| reason.is_error()) {
            self.counters.subscriptions_refused.of(*reason).increment();
        }
        {
            let state = &mut *conn.state.borrow_mut();
            self.lend_buffer(&mut state.out);
            state
                .protocol
                .handle_subscribed(subscribing.packet_id, &subscribing.reasons, &mut state.out)?;
        }
        self.mark_dirty(conn);
        Ok(())
    }

    /// The subscriptions are committed and routed.
    pub(super) fn subscribed(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        mut subscribing: Subscribing,
        completion: &Completion,
    ) -> Result<(), Close> {
        let Completion::Applied(Outcome::Subscribed(results)) = completion else {
            return Err(fenced());
        };
        let mut granted = Vec::new();
        for ((place, filter, options), result) in subscribing.filters.iter().zip(results) {
            match result {
                SubscribeResult::LimitReached => subscribing.reasons[*place] = ReasonCode::QUOTA_EXCEEDED,
                SubscribeResult::Added | SubscribeResult::Replaced => {
                    let new = *result == SubscribeResult::Added;
                    granted.push((filter.clone(), *options, wants_retained(filter, options, new)));
                }
            }
        }
        self.answer_subscribe(conn, &subscribing)?;
        // As if they had come one by one [MQTT-3.8.4-5]: the last one of a filter counts.
        for (filter, options, wants_retained) in granted {
            let id = subscribing.subscription_id;
            if !wants_retained {
                if let Some(rare) = &mut conn.state.borrow_mut().rare {
                    let is_durable = Placement::is_durable(subscribing.session);
                    rare.replays.renewed(&filter, (options.qos, id), is_durable);
                }
            } else if let Some(number) = subscribing.replay {
                self.send_sys_topics(conn, &filter, id);
                self.begin_replay(conn, number, (filter, options), id);
            }
        }
        if let Some(number) = subscribing.replay {
            conn.state.borrow_mut().rare().replays.answered(number);
            self.replay(conn);
        }
        self.offer_shares(conn, &subscribing);
        Ok(())
    }

    /// Routes subscriptions on this node before their commit, so that what the client publishes behind its SUBSCRIBE
    /// finds them; SUBACK waits for the commit. Not beyond the session's limit, which the commit would enforce.
    fn route_early(&self, session: SessionId, subscriptions: &[Subscription]) {
        let max = self.shared.settings.session_limits.subscriptions_max as usize;
        self.shared.router.write(|table| {
            for subscription in subscriptions {
                if table.subscriptions_of(session) < max {
                    table.subscribe(session, subscription);
                }
            }
            ((), true)
        });
    }

    /// Puts routes that were set before their commit as the session has them, where they were not granted. Whether the
    /// connection is still there does not matter: the session may be.
    pub(super) fn correct_routes(&self, subscribing: &Subscribing, completion: &Completion) {
        let session = subscribing.session;
        let refused = |place: usize| match completion {
            Completion::Applied(Outcome::Subscribed(results)) => {
                results.get(place) == Some(&SubscribeResult::LimitReached)
            }
            _ => true,
        };
        let refused: Vec<&Arc<str>> = (subscribing.filters.iter().enumerate())
            .filter(|(place, _)| refused(*place))
            .map(|(_, (_, filter, _))| filter)
            .collect();
        if refused.is_empty() {
            return;
        }
        let home = self.shared.node().home(session);
        if !home.is_here() {
            return home.refresh(session);
        }
        self.shared.router.write(|table| {
            // Read under the routes' lock: what is applied later changes the routes later.
            let state = home.state();
            for filter in refused {
                match state.subscription(session, filter) {
                    Some(subscription) => table.subscribe(session, &subscription),
                    None => table.unsubscribe(session, filter),
                }
            }
            ((), true)
        });
    }

    /// A new member of a shared subscription takes its part of what waits.
    fn offer_shares(&self, conn: &Conn, subscribing: &Subscribing) {
        let Some((session, _)) = conn.session() else {
            return;
        };
        let mut filters = subscribing.filters.iter();
        if filters.any(|(_, filter, _)| crate::router::split_share(filter).is_some()) {
            self.shared.shares_ready(session);
        }
    }

    pub(super) fn unsubscribe(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        request: &UnsubscribeRequest<'_>,
    ) -> Result<(), Close> {
        let Some((session, epoch)) = conn.session() else {
            return Ok(());
        };
        let mut unsubscribing = Unsubscribing {
            packet_id: request.packet_id,
            reasons: SmallVec::new(),
            places: SmallVec::new(),
            filters: Vec::new(),
        };
        let mut filters: Vec<Arc<str>> = Vec::new();
        for (place, entry) in request.entries.iter().enumerate() {
            unsubscribing
                .reasons
                .push(entry.verdict.err().unwrap_or(ReasonCode::SUCCESS));
            if entry.verdict.is_ok() {
                unsubscribing.places.push(place);
                filters.push(entry.filter.into());
            }
        }
        if filters.is_empty() {
            return self.answer_unsubscribe(conn, &unsubscribing);
        }
        unsubscribing.filters.clone_from(&filters);
        let ticket = Ticket {
            location: conn.location,
            waits_for: WaitsFor::Unsubscribed(Box::new(unsubscribing)),
        };
        let command = Command::Unsubscribe {
            session,
            epoch,
            filters,
        };
        self.shared
            .node()
            .home(session)
            .propose_routes(&command, Some(ticket));
        Ok(())
    }

    fn answer_unsubscribe(&self, conn: &Rc<Conn>, unsubscribing: &Unsubscribing) -> Result<(), Close> {
        {
            let state = &mut *conn.state.borrow_mut();
            self.lend_buffer(&mut state.out);
            state.protocol.handle_unsubscribed(
                unsubscribing.packet_id,
                &unsubscribing.reasons,
                &mut state.out,
            )?;
        }
        self.mark_dirty(conn);
        Ok(())
    }

    /// The removal is committed and no longer routed.
    pub(super) fn unsubscribed(
        self: &Rc<Self>,
        conn: &Rc<Conn>,
        mut unsubscribing: Unsubscribing,
        completion: &Completion,
    ) -> Result<(), Close> {
        let Completion::Applied(Outcome::Unsubscribed(existed)) = completion else {
            return Err(fenced());
        };
        for (place, existed) in unsubscribing.places.iter().zip(existed) {
            if !existed {
                unsubscribing.reasons[*place] = ReasonCode::NO_SUBSCRIPTION_EXISTED;
            }
        }
        let has_replays = {
            let mut state = conn.state.borrow_mut();
            let rare = state.rare.as_mut();
            rare.map(|rare| rare.replays.unsubscribed(&unsubscribing.filters))
                .is_some()
        };
        self.answer_unsubscribe(conn, &unsubscribing)?;
        if has_replays {
            // Others may have waited behind them.
            self.replay(conn);
        }
        Ok(())
    }
}

fn granted(qos: QoS) -> ReasonCode {
    match qos {
        QoS::AtMostOnce => ReasonCode::GRANTED_QOS_0,
        QoS::AtLeastOnce => ReasonCode::GRANTED_QOS_1,
        QoS::ExactlyOnce => ReasonCode::GRANTED_QOS_2,
    }
}

/// The session belongs to a later connection.
pub(super) fn fenced() -> Close {
    Close::new(ReasonCode::SESSION_TAKEN_OVER, "the session was taken over")
}

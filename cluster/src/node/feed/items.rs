//! Feed items: events and views as messages between nodes, and back.

use std::sync::Arc;

use quorate_storage::log::GroupId;

use super::super::peers::proto;
use crate::state::codec::{options_byte, read_options};
use crate::state::{
    CodecError, Epoch, Event, GroupTime, NodeId, NodeIncarnation, Owner, RetainedSource, RetainedTaken,
    Sequence, SessionId, SessionView, Subscription, TargetQueue,
};

pub(super) use proto::feed_item::Body;

/// A session as items tell it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ToldSession {
    pub(super) view: SessionView,
    /// All of its subscriptions, where they are told.
    pub(super) subscriptions: Option<Vec<Subscription>>,
}

pub(super) fn item(body: Body) -> proto::FeedItem {
    proto::FeedItem { body: Some(body) }
}

/// A session, with all of its subscriptions or without a word of them.
pub(super) fn session_item(
    view: &SessionView,
    subscriptions: Option<impl Iterator<Item = Subscription>>,
) -> proto::FeedItem {
    let whole = subscriptions.is_some();
    let subscriptions = subscriptions.into_iter().flatten();
    item(Body::Session(proto::FeedSession {
        client_id: view.client_id.to_string(),
        session: view.session.0,
        epoch: view.epoch.0,
        node: view.owner.map_or(0, |owner| owner.node.0),
        incarnation: view.owner.map_or(0, |owner| owner.incarnation.0),
        expiry_secs: view.expiry_secs,
        expires_at: view.expires_at.map(|at| at.0),
        whole,
        subscriptions: subscriptions
            .map(|subscription| subscription_item(SessionId(0), &subscription))
            .collect(),
    }))
}

fn subscription_item(session: SessionId, subscription: &Subscription) -> proto::FeedSubscription {
    proto::FeedSubscription {
        session: session.0,
        filter: subscription.filter.to_string(),
        options: u32::from(options_byte(&subscription.options)),
        subscription_id: subscription.subscription_id.unwrap_or(0),
    }
}

/// What an event says to every node, if it concerns them. Owners are told with the session's view instead.
pub(super) fn common_item(event: &Event) -> Option<proto::FeedItem> {
    let body = match event {
        Event::SessionEnded {
            client_id, session, ..
        } => Body::Ended(proto::FeedSessionEnded {
            client_id: client_id.to_string(),
            session: session.0,
        }),
        Event::Subscribed {
            session,
            subscription,
        } => Body::Subscribed(subscription_item(*session, subscription)),
        Event::Unsubscribed { session, filter } => Body::Unsubscribed(proto::FeedUnsubscribed {
            session: session.0,
            filter: filter.to_string(),
        }),
        Event::RetainedTaken(told) => return Some(retained_item(told)),
        _ => return None,
    };
    Some(item(body))
}

pub(super) fn retained_item(told: &RetainedTaken) -> proto::FeedItem {
    item(Body::RetainedTaken(proto::FeedRetainedTaken {
        up_to_index: told.up_to.index,
        up_to_position: told.up_to.position,
        refused_indexes: told.refused.iter().map(|source| source.index).collect(),
        refused_positions: told.refused.iter().map(|source| source.position).collect(),
        topics: told.topics.map_or(0, |topics| u32::from(topics.0)),
        forgotten_index: told.forgotten.map_or(0, |source| source.index),
        forgotten_position: told.forgotten.map_or(0, |source| source.position),
    }))
}

pub(super) fn queue_item(session: SessionId, first: Sequence, count: u32, bytes: u64) -> proto::FeedQueue {
    proto::FeedQueue {
        session: session.0,
        first: first.0,
        count,
        bytes,
    }
}

/// Reads a session.
///
/// # Errors
/// Options that no subscription has.
pub(super) fn read_session(told: proto::FeedSession) -> Result<ToldSession, CodecError> {
    let epoch = Epoch(told.epoch);
    let owner = (told.node != 0).then_some(Owner {
        node: NodeId(told.node),
        incarnation: NodeIncarnation(told.incarnation),
        epoch,
    });
    let subscriptions = told.subscriptions.iter().map(read_subscription);
    let subscriptions: Vec<Subscription> = subscriptions.collect::<Result<_, _>>()?;
    Ok(ToldSession {
        view: SessionView {
            session: SessionId(told.session),
            client_id: told.client_id.into(),
            epoch,
            owner,
            expiry_secs: told.expiry_secs,
            expires_at: told.expires_at.map(GroupTime),
            subscriptions: u32::try_from(subscriptions.len()).unwrap_or(u32::MAX),
            inbound: 0,
        },
        subscriptions: told.whole.then_some(subscriptions),
    })
}

pub(super) fn read_subscription(told: &proto::FeedSubscription) -> Result<Subscription, CodecError> {
    let options = u8::try_from(told.options).map_err(|_| CodecError::Invalid("subscription options"))?;
    Ok(Subscription {
        filter: Arc::from(told.filter.as_str()),
        options: read_options(options)?,
        subscription_id: (told.subscription_id != 0).then_some(told.subscription_id),
    })
}

/// Reads how far retained writes have come.
///
/// # Errors
/// A group that there cannot be.
pub(super) fn read_retained_taken(
    group: GroupId,
    told: &proto::FeedRetainedTaken,
) -> Result<RetainedTaken, CodecError> {
    let source = |index, position| RetainedSource {
        group,
        index,
        position,
    };
    let refused = told.refused_indexes.iter().zip(&told.refused_positions);
    let topics = u16::try_from(told.topics).map_err(|_| CodecError::Invalid("group of topics"))?;
    Ok(RetainedTaken {
        topics: (topics != 0).then_some(GroupId(topics)),
        up_to: source(told.up_to_index, told.up_to_position),
        refused: refused
            .map(|(index, position)| source(*index, *position))
            .collect(),
        forgotten: (told.forgotten_index > 0).then(|| source(told.forgotten_index, told.forgotten_position)),
    })
}

/// The queue that an item of this node's feed is about.
pub(super) fn queue_of(told: &proto::FeedQueue, this: (NodeId, NodeIncarnation)) -> TargetQueue {
    match told.session {
        0 => TargetQueue::Node(this.0, this.1),
        session => TargetQueue::Session(SessionId(session)),
    }
}

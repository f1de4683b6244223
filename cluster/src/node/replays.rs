//! The retained messages that are still to come for a session's new subscriptions (R24), as whoever takes the session over
//! reads them: from this node's replica of the home group, or another's.

use std::time::Instant;

use super::group::Standing;
use super::peers::{AnswerBody, AskError, RequestBody, proto};
use super::remote::make_room;
use super::{Group, Host};
use crate::raft::Reply;
use crate::state::{Command, PendingReplay, ReplayStep, SessionId};

/// Bytes of replays in one page, unless a single one is larger.
const PAGE_BYTES_MAX: usize = 1 << 20;

impl<H: Host> Group<H> {
    /// A page of a session's replays, by filter from behind `after` on; empty where there are no more. As of what this node
    /// knows of the group: whoever opened the session finds all that earlier connections left.
    pub async fn read_replays(&self, session: SessionId, after: Option<&str>) -> Vec<PendingReplay> {
        loop {
            if self.standing() == Standing::Replica {
                return self.state().pending_replays(session, after, PAGE_BYTES_MAX);
            }
            let ask = |after_index| {
                RequestBody::ReadReplays(proto::ReadReplays {
                    group: u32::from(self.id().0),
                    after_index,
                    session: session.0,
                    after: after.map(str::to_owned),
                })
            };
            if let Some(page) = self.read_much_elsewhere(ask, read_page).await {
                return page;
            }
        }
    }

    /// Proposes a step of a replay. The ticket is completed when this node has applied it.
    pub fn propose_replay(&self, step: ReplayStep, ticket: H::Ticket) {
        self.propose(&Command::Replay(step), Some(ticket));
    }

    pub(super) async fn answer_read_replays(
        &self,
        ask: proto::ReadReplays,
        reply: &mut Reply,
    ) -> Option<proto::ReplaysRead> {
        let asked = Instant::now();
        self.reach_here(ask.after_index).await?;
        let page = self
            .state()
            .pending_replays(SessionId(ask.session), ask.after.as_deref(), PAGE_BYTES_MAX);
        let bytes = page.iter().map(|replay| replay.size() as u64).sum();
        make_room(reply, bytes, asked).await?;
        let encode = |replay: &PendingReplay| {
            let mut encoded = Vec::new();
            replay.encode(&mut encoded);
            encoded.into()
        };
        Some(proto::ReplaysRead {
            replays: page.iter().map(encode).collect(),
        })
    }
}

fn read_page(answer: AnswerBody) -> Result<Vec<PendingReplay>, AskError> {
    let AnswerBody::ReplaysRead(read) = answer else {
        return Err(AskError::Malformed);
    };
    let replays = read.replays.iter();
    replays
        .map(|replay| PendingReplay::decode(replay).map_err(|_| AskError::Malformed))
        .collect()
}

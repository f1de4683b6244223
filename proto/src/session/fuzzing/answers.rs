//! What the host answers, in any order: decisions, openings, outcomes.

use super::host::Run;
use crate::codec::{PacketId, ProtocolVersion, ReasonCode};
use crate::fuzz_input::Input;
use crate::session::{Decision, OpenRequest, Opened, PublishOutcome};

const REASONS: [ReasonCode; 4] = [
    ReasonCode::NOT_AUTHORIZED,
    ReasonCode::QUOTA_EXCEEDED,
    ReasonCode::SERVER_BUSY,
    ReasonCode::PROTOCOL_ERROR,
];

impl Run {
    pub(super) fn answer_publish(&mut self, input: &mut Input<'_>) {
        if self.outstanding.publishes.is_empty() {
            return;
        }
        let index = usize::from(input.byte()) % self.outstanding.publishes.len();
        let token = self.outstanding.publishes.swap_remove(index);
        let outcome = match input.below(8) {
            0 if self.client.version == ProtocolVersion::V5 || input.rarely() => {
                PublishOutcome::Refused(input.pick(&REASONS))
            }
            0 => PublishOutcome::Refused(ReasonCode::NOT_AUTHORIZED),
            1 => PublishOutcome::Accepted { matched: false },
            _ => PublishOutcome::Accepted { matched: true },
        };
        let result = self
            .connection
            .handle_publish_outcome(token, outcome, &mut self.out);
        self.settle_call(result);
    }

    pub(super) fn answer_exchange(&mut self, input: &mut Input<'_>) {
        match input.below(3) {
            0 => {
                if let Some(packet_id) = self.outstanding.releases.pop() {
                    self.connection
                        .handle_released(packet_id, input.flag(), &mut self.out);
                }
            }
            1 => {
                if let Some(packet_id) = self.outstanding.received.pop() {
                    self.connection
                        .handle_received_committed(packet_id, &mut self.out);
                }
            }
            _ => {
                if let Some((packet_id, count, subscribe)) = self.outstanding.requests.pop() {
                    self.answer_request(packet_id, count, subscribe);
                }
            }
        }
    }

    pub(super) fn answer_request(&mut self, packet_id: PacketId, count: usize, subscribe: bool) {
        let reasons = vec![ReasonCode::SUCCESS; count];
        let result = if subscribe {
            self.connection
                .handle_subscribed(packet_id, &reasons, &mut self.out)
        } else {
            self.connection
                .handle_unsubscribed(packet_id, &reasons, &mut self.out)
        };
        self.settle_call(result);
    }

    pub(super) fn answer_handshake(&mut self, input: &mut Input<'_>) {
        if let Some(request) = self.outstanding.open.take() {
            return self.answer_open(&request, input);
        }
        if !std::mem::take(&mut self.outstanding.decision) {
            return;
        }
        let decision = match input.below(8) {
            0 => Decision::Refuse {
                reason: input.pick(&REASONS),
                reason_string: Some("no"),
            },
            1 => Decision::Continue {
                data: Some(b"challenge"),
            },
            _ => Decision::Accept {
                data: Some(b"data"),
                assigned_client_id: Some("assigned"),
            },
        };
        match self
            .connection
            .handle_authenticated(decision, self.now, &mut self.out)
        {
            Ok(action) => self.take(action),
            Err(close) => self.end(&close),
        }
    }

    fn answer_open(&mut self, request: &OpenRequest, input: &mut Input<'_>) {
        if input.below(16) == 0 {
            return self
                .connection
                .handle_refused(input.pick(&REASONS), None, &mut self.out);
        }
        let inbound: Vec<PacketId> = if request.durable && !request.clean_start {
            (1..=3)
                .filter(|_| input.flag())
                .filter_map(PacketId::new)
                .collect()
        } else {
            Vec::new()
        };
        inbound
            .iter()
            .for_each(|packet_id| self.client.restore(*packet_id));
        let opened = Opened {
            session_present: !inbound.is_empty(),
            inbound,
            durable: false,
            local_start: u64::from(input.byte()),
        };
        let result = self.connection.handle_opened(opened, self.now, &mut self.out);
        self.settle_call(result);
    }
}

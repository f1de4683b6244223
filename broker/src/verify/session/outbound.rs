//! Messages a client sends, from the first PUBLISH to the last acknowledgement, over connections that end at any byte
//! [MQTT-4.3.2, 4.3.3, 4.4].
//!
//! Order of calls: [`Outbound::handle_connected`] for each connection, then [`Outbound::poll_transmission`] until it has
//! nothing more, and [`Outbound::handle_ack`] for what comes back. What is under way is sent again first, in its order
//! and under its packet identifiers; new messages follow. Payloads are not kept, as the number makes them.

use std::collections::VecDeque;
use std::time::Duration;

use quorate_proto::codec::{Ack, PacketId, PacketType, QoS, ReasonCode};

/// The sending half of a session, all of one QoS.
#[derive(Debug)]
pub(crate) struct Outbound {
    qos: QoS,
    window: usize,
    /// In the order of their first sending.
    in_flight: VecDeque<InFlight>,
    /// Where sending again has got to on this connection.
    resend_next: usize,
    /// PUBLISH packets that may still be sent on this connection [MQTT5 4.9].
    quota: u16,
    receive_maximum: u16,
    last_id: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct InFlight {
    packet_id: PacketId,
    number: u64,
    sent_at: Duration,
    /// PUBREC has come.
    is_received: bool,
    /// It was sent in this session.
    is_dup: bool,
}

/// A packet to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transmission {
    /// PUBLISH; a repetition where `again` says so, which need not have the DUP flag.
    Publish {
        packet_id: PacketId,
        number: u64,
        is_dup: bool,
        again: bool,
    },
    /// PUBREL.
    Pubrel(PacketId),
}

/// What an acknowledgement means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The broker is responsible now: PUBACK, or PUBREC, which a PUBREL answers.
    Acknowledged { number: u64, sent_at: Duration },
    /// PUBACK or PUBREC of 0x80 or above.
    Refused(ReasonCode),
    /// PUBCOMP, or a PUBREC that came once more.
    Nothing,
    /// No message that is under way can have this answer.
    Unexpected,
}

impl Outbound {
    /// Sends at most `window` messages at a time, each of them numbered by the caller.
    pub(crate) fn new(qos: QoS, window: usize) -> Self {
        Self {
            qos,
            window: window.min(usize::from(u16::MAX)),
            in_flight: VecDeque::new(),
            resend_next: 0,
            quota: 0,
            receive_maximum: 0,
            last_id: 0,
        }
    }

    /// A connection begins. Returns the numbers that are given up: where the broker has no session, messages of QoS 2
    /// whose fate is not known are not sent again, as they would come twice if it had them after all. Messages of QoS 1
    /// are sent as new ones.
    pub(crate) fn handle_connected(&mut self, is_session_present: bool, receive_maximum: u16) -> Vec<u64> {
        self.receive_maximum = receive_maximum;
        self.quota = receive_maximum;
        self.resend_next = 0;
        if is_session_present {
            return Vec::new();
        }
        if self.qos == QoS::ExactlyOnce {
            let unanswered = self.in_flight.drain(..).filter(|message| !message.is_received);
            return unanswered.map(|message| message.number).collect();
        }
        self.in_flight
            .iter_mut()
            .for_each(|message| message.is_dup = false);
        Vec::new()
    }

    /// The next packet to send. `next_number` gives the number of a new message, or `None` to wait; it is asked when
    /// there is room for one.
    pub(crate) fn poll_transmission(
        &mut self,
        now: Duration,
        next_number: impl FnOnce() -> Option<u64>,
    ) -> Option<Transmission> {
        if let Some(message) = self.in_flight.get_mut(self.resend_next) {
            if message.is_received {
                self.resend_next += 1;
                return Some(Transmission::Pubrel(message.packet_id));
            }
            self.quota = self.quota.checked_sub(1)?;
            self.resend_next += 1;
            let is_dup = std::mem::replace(&mut message.is_dup, true);
            return Some(Transmission::Publish {
                packet_id: message.packet_id,
                number: message.number,
                is_dup,
                again: true,
            });
        }
        if self.in_flight.len() >= self.window || self.quota == 0 {
            return None;
        }
        let number = next_number()?;
        let packet_id = self.free_id();
        self.quota -= 1;
        self.in_flight.push_back(InFlight {
            packet_id,
            number,
            sent_at: now,
            is_received: false,
            is_dup: true,
        });
        self.resend_next = self.in_flight.len();
        Some(Transmission::Publish {
            packet_id,
            number,
            is_dup: false,
            again: false,
        })
    }

    /// The next identifier that is not in use; there is one, as fewer messages are in flight than there are identifiers.
    fn free_id(&mut self) -> PacketId {
        debug_assert!(
            self.in_flight.len() < usize::from(u16::MAX),
            "the window leaves an identifier free"
        );
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(packet_id) = PacketId::new(self.last_id)
                && self.position(packet_id).is_none()
            {
                return packet_id;
            }
        }
    }

    fn position(&self, packet_id: PacketId) -> Option<usize> {
        self.in_flight
            .iter()
            .position(|message| message.packet_id == packet_id)
    }

    /// Takes PUBACK, PUBREC or PUBCOMP. A PUBREC that does not refuse is to be answered with PUBREL.
    pub(crate) fn handle_ack(&mut self, packet_type: PacketType, ack: &Ack<'_>) -> Answer {
        let Some(index) = self.position(ack.packet_id) else {
            return Answer::Unexpected;
        };
        // On this connection nothing was sent for it yet.
        if index >= self.resend_next {
            return Answer::Unexpected;
        }
        let message = self.in_flight[index];
        match (packet_type, self.qos, message.is_received) {
            (PacketType::Puback, QoS::AtLeastOnce, _) | (PacketType::Pubrec, QoS::ExactlyOnce, false) => {
                self.answer(index, packet_type, ack.reason)
            }
            (PacketType::Pubrec, QoS::ExactlyOnce, true) => Answer::Nothing,
            (PacketType::Pubcomp, QoS::ExactlyOnce, true) => {
                self.remove(index);
                Answer::Nothing
            }
            _ => Answer::Unexpected,
        }
    }

    fn answer(&mut self, index: usize, packet_type: PacketType, reason: ReasonCode) -> Answer {
        let InFlight { number, sent_at, .. } = self.in_flight[index];
        if reason.is_error() {
            self.remove(index);
            return Answer::Refused(reason);
        }
        if packet_type == PacketType::Puback {
            self.remove(index);
        } else {
            self.in_flight[index].is_received = true;
        }
        Answer::Acknowledged { number, sent_at }
    }

    fn remove(&mut self, index: usize) {
        self.in_flight.remove(index);
        self.resend_next -= 1;
        self.quota = self.quota.saturating_add(1).min(self.receive_maximum);
        debug_assert!(
            self.resend_next <= self.in_flight.len(),
            "sending again is within what is in flight: {self:?}"
        );
    }

    /// When the messages that have no answer yet were first sent.
    pub(crate) fn waiting_since(&self) -> impl Iterator<Item = Duration> {
        let waiting = self.in_flight.iter().filter(|message| !message.is_received);
        waiting.map(|message| message.sent_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    struct Client {
        outbound: Outbound,
        last: u64,
    }

    impl Client {
        fn new(qos: QoS, window: usize) -> Self {
            let mut outbound = Outbound::new(qos, window);
            assert!(outbound.handle_connected(false, 100).is_empty());
            Self { outbound, last: 0 }
        }

        fn poll(&mut self) -> Option<Transmission> {
            let last = &mut self.last;
            self.outbound.poll_transmission(NOW, || {
                *last += 1;
                Some(*last)
            })
        }

        /// Begins so many messages.
        fn begin(&mut self, count: usize) {
            for _ in 0..count {
                assert!(self.poll().is_some());
            }
        }

        /// What is sent, new messages excluded.
        fn resend(&mut self) -> Vec<Transmission> {
            std::iter::from_fn(|| self.outbound.poll_transmission(NOW, || None)).collect()
        }

        fn ack(&mut self, packet_type: PacketType, packet_id: u16, reason: u8) -> Answer {
            let packet_id = PacketId::new(packet_id).unwrap();
            let ack = Ack::new(packet_id, ReasonCode(reason));
            self.outbound.handle_ack(packet_type, &ack)
        }
    }

    fn publish(packet_id: u16, number: u64, is_dup: bool, again: bool) -> Transmission {
        Transmission::Publish {
            packet_id: PacketId::new(packet_id).unwrap(),
            number,
            is_dup,
            again,
        }
    }

    fn acknowledged(number: u64) -> Answer {
        Answer::Acknowledged { number, sent_at: NOW }
    }

    #[test]
    fn the_window_is_kept() {
        let mut client = Client::new(QoS::AtLeastOnce, 2);
        assert_eq!(client.poll(), Some(publish(1, 1, false, false)));
        assert_eq!(client.poll(), Some(publish(2, 2, false, false)));
        assert_eq!(client.poll(), None);
        assert_eq!(client.ack(PacketType::Puback, 2, 0), acknowledged(2));
        assert_eq!(client.poll(), Some(publish(3, 3, false, false)));
        assert_eq!(client.outbound.waiting_since().count(), 2);
    }

    #[test]
    fn a_resumed_session_goes_on_in_order_under_the_same_identifiers() {
        let mut client = Client::new(QoS::ExactlyOnce, 9);
        client.begin(4);
        assert_eq!(client.ack(PacketType::Pubrec, 2, 0), acknowledged(2));
        assert_eq!(client.ack(PacketType::Pubrec, 1, 0), acknowledged(1));
        assert_eq!(client.ack(PacketType::Pubcomp, 1, 0), Answer::Nothing);
        assert!(client.outbound.handle_connected(true, 100).is_empty());
        let expected = [
            Transmission::Pubrel(PacketId::new(2).unwrap()),
            publish(3, 3, true, true),
            publish(4, 4, true, true),
        ];
        assert_eq!(client.resend(), expected);
        assert_eq!(client.poll(), Some(publish(5, 5, false, false)));
        assert_eq!(client.ack(PacketType::Pubcomp, 2, 0x92), Answer::Nothing);
        assert_eq!(client.ack(PacketType::Pubrec, 3, 0), acknowledged(3));
        assert_eq!(client.ack(PacketType::Pubrec, 3, 0), Answer::Nothing);
    }

    #[test]
    fn without_a_session_qos_1_starts_anew_and_qos_2_gives_up() {
        let mut client = Client::new(QoS::AtLeastOnce, 9);
        client.begin(2);
        assert!(client.outbound.handle_connected(false, 100).is_empty());
        let expected = [publish(1, 1, false, true), publish(2, 2, false, true)];
        assert_eq!(client.resend(), expected);
        client.outbound.handle_connected(true, 100);
        let expected = [publish(1, 1, true, true), publish(2, 2, true, true)];
        assert_eq!(client.resend(), expected);

        let mut client = Client::new(QoS::ExactlyOnce, 9);
        client.begin(3);
        client.ack(PacketType::Pubrec, 2, 0);
        assert_eq!(client.outbound.handle_connected(false, 100), [1, 3]);
        assert!(client.outbound.in_flight.is_empty());
        assert_eq!(client.resend(), []);
    }

    #[test]
    fn the_receive_maximum_holds_for_what_is_sent_again() {
        let mut client = Client::new(QoS::ExactlyOnce, 9);
        client.begin(3);
        client.outbound.handle_connected(true, 2);
        assert_eq!(client.resend().len(), 2);
        client.ack(PacketType::Pubrec, 1, 0);
        assert_eq!(client.resend(), [], "an exchange ends with PUBCOMP");
        client.ack(PacketType::Pubcomp, 1, 0);
        assert_eq!(client.resend(), [publish(3, 3, true, true)]);
        client.ack(PacketType::Pubrec, 2, 0x97);
        assert_eq!(client.poll(), Some(publish(4, 4, false, false)));
    }

    #[test]
    fn a_refusal_ends_the_exchange() {
        for (qos, packet_type) in [
            (QoS::AtLeastOnce, PacketType::Puback),
            (QoS::ExactlyOnce, PacketType::Pubrec),
        ] {
            let mut client = Client::new(qos, 1);
            client.poll();
            let refused = Answer::Refused(ReasonCode::QUOTA_EXCEEDED);
            assert_eq!(client.ack(packet_type, 1, 0x97), refused);
            assert!(client.outbound.in_flight.is_empty());
            assert_eq!(client.ack(packet_type, 1, 0), Answer::Unexpected);
        }
    }

    #[test]
    fn answers_to_nothing_are_unexpected() {
        let mut client = Client::new(QoS::ExactlyOnce, 9);
        client.poll();
        assert_eq!(client.ack(PacketType::Puback, 1, 0), Answer::Unexpected);
        assert_eq!(client.ack(PacketType::Pubcomp, 1, 0), Answer::Unexpected);
        assert_eq!(client.ack(PacketType::Pubrec, 2, 0), Answer::Unexpected);
        client.outbound.handle_connected(true, 9);
        assert_eq!(
            client.ack(PacketType::Pubrec, 1, 0),
            Answer::Unexpected,
            "not sent yet"
        );
    }

    #[test]
    fn identifiers_in_use_are_passed_over() {
        let mut client = Client::new(QoS::AtLeastOnce, 9);
        client.poll();
        client.outbound.last_id = u16::MAX;
        assert_eq!(client.poll(), Some(publish(2, 2, false, false)));
    }
}
